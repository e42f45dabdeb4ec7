"""Metrics, logs, traces and failpoints of every process; the Prometheus rules and Grafana dashboards."""
