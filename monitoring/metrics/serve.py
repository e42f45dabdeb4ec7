"""Serving a process's metrics over HTTP, for processes that have no server of their own."""

from __future__ import annotations

import socket
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

_ANYWHERE = {"0.0.0.0", "::", ""}


def serve_metrics(registry: CollectorRegistry, host: str, port: int, advertise_host: str | None) -> str:
    """Serve ``/metrics`` in a daemon thread, always as Prometheus's text format.

    Args:
        port: 0 picks a free one.
        advertise_host: the host under which others reach it; None: ``host``, or the machine's name if that is every
            interface.

    Returns:
        The address for Prometheus.

    Raises:
        OSError: the address cannot be listened on.
    """
    server, _ = start_http_server(port, host, registry)
    server.set_app(_as_text(server.get_app()))
    advertised = advertise_host or (socket.gethostname() if host in _ANYWHERE else host)
    return f"http://{advertised}:{server.server_port}/metrics"


def _as_text(app: Any) -> Any:
    """Have a WSGI application answer in Prometheus's text format, whatever it is asked for.

    In OpenMetrics the client library writes ``vllm_`` where vLLM's names have ``vllm:``, and no dashboard finds them.
    """

    def answer(environ: dict[str, Any], start: Any) -> Any:
        return app({**environ, "HTTP_ACCEPT": "text/plain;version=0.0.4"}, start)

    return answer
