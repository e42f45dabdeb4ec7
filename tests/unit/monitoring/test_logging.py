"""The log lines' form."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator

import pytest
import structlog

from monitoring.logging import FIRST, configure_logging, vllm_logging_config


@pytest.fixture
def logs() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    before, level, defaults = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.configure(**defaults)
    structlog.contextvars.clear_contextvars()


def test_a_json_line_has_its_stable_fields_first(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", as_json=True, service="api")
    structlog.contextvars.bind_contextvars(trace_id="t", job_id="j", request_id="r")
    structlog.get_logger("ours").info("job_failed", code="timeout", odd=object)
    try:
        raise ValueError("no")
    except ValueError:
        structlog.get_logger("ours").exception("run_crashed")
    logging.getLogger("theirs").warning("a %s", "sentence")
    ours, crashed, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert tuple(ours)[: len(FIRST)] == FIRST
    assert (ours["event"], ours["job_id"], ours["trace_id"], ours["code"]) == (
        "job_failed",
        "j",
        "t",
        "timeout",
    )
    assert crashed["exception"].endswith("ValueError: no")
    assert (theirs["event"], theirs["logger"], theirs["service"]) == ("a sentence", "theirs", "api")
    assert tuple(theirs) == FIRST


def test_a_traceback_shows_no_values(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    def work(prompt: str) -> None:
        raise ValueError(len(prompt))

    for as_json in (True, False):
        configure_logging("info", as_json=as_json)
        try:
            work("a " + "secret")
        except ValueError:
            structlog.get_logger("ours").exception("run_crashed")
        said = capsys.readouterr().err
        assert "ValueError: 8" in said
        assert "a secret" not in said


def test_what_is_below_the_level_is_not_said(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    log = structlog.get_logger("ours")
    log.info("worker_ready")
    log.warning("redis_unavailable", error="away")
    said = capsys.readouterr().err
    assert "worker_ready" not in said
    assert "redis_unavailable" in said


def test_vllms_records_are_lines_like_ours(logs: None, capsys: pytest.CaptureFixture[str]) -> None:
    logging.config.dictConfig(
        json.loads(json.dumps(vllm_logging_config("INFO", as_json=True, service="vllm")))
    )
    logger = logging.getLogger("vllm.engine")
    logger.info("loaded in %.1f s", 2.0)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["service"], line["logger"]) == ("loaded in 2.0 s", "vllm", "vllm.engine")
    logging.getLogger("vllm").handlers.clear()
