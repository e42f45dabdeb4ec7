"""Structured logs: one key-value line per event, with the ids of job and trace; never a prompt or a completion.

:mod:`monitoring.events` lists every event's name and meaning.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)

FIRST = ("timestamp", "level", "event", "service", "request_id", "job_id", "trace_id", "logger")
"""The first fields of a JSON line, in this order; a line may lack some. The event's other fields follow."""


def configure_logging(level: str = "info", *, as_json: bool = False, service: str | None = None) -> None:
    """Send structlog's and the standard library's records to standard error, in one form.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``. Lower levels cost next to nothing.
        as_json: one JSON object a line instead of text.
        service: the name of the process in JSON lines.
    """
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(as_json=as_json, service=service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(_LEVELS[level], logging.INFO))


def last_word(say: Callable[[], object]) -> None:
    """Write the last line of a process that must end now.

    Args:
        say: logs it. It has a moment for that: standard error may be a pipe that nobody reads.
    """
    speaker = threading.Thread(target=say, name="last-word", daemon=True)
    speaker.start()
    speaker.join(_LAST_WORD_S)


_LAST_WORD_S = 0.1
_QUIET = ("aiohttp", "asyncio", "kombu", "celery", "amqp", "urllib3", "opentelemetry", "httpcore", "httpx")
"""Libraries whose debug lines are left out: they would hide ours, and may quote a message."""


def make_formatter(*, as_json: bool, service: str | None = None) -> logging.Formatter:
    """Return the formatter for our own and libraries' records. vLLM's logging configuration names it too."""
    renderers: list[structlog.typing.Processor]
    if as_json:

        def arrange(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
            if service is not None:
                line["service"] = service
            first = {name: line[name] for name in FIRST if name in line}
            return first | {name: value for name, value in line.items() if name not in first}

        renderers = [arrange, structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
    else:
        renderers = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            *renderers,
        ],
    )


def vllm_logging_config(level: str, *, as_json: bool, service: str) -> dict[str, Any]:
    """Return a ``logging.config`` dictionary that formats vLLM's own records, in any of its processes, like ours."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "penstock": {"()": f"{__name__}.make_formatter", "as_json": as_json, "service": service}
        },
        "handlers": {
            "penstock": {
                "class": "logging.StreamHandler",
                "formatter": "penstock",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {"vllm": {"handlers": ["penstock"], "level": level, "propagate": False}},
    }
