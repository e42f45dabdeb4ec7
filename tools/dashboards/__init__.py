"""Grafana dashboards as code; see ``tools/gen_dashboards.py``."""
