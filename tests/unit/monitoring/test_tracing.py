"""When traces are on, what is recorded, and by which names."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, messaging_attributes
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    http_attributes,
    network_attributes,
    url_attributes,
    user_agent_attributes,
)
from structlog.testing import capture_logs

from monitoring.otlp import make_tracer, traces_url
from monitoring.sampling import Gate
from monitoring.trace_context import TraceContext
from monitoring.tracing import NO_SPAN, Kind, Span, Tracer
from tests.otlp import OtlpReceiver
from tests.support import free_port, wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        "OTEL_TRACES_SAMPLER",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def test_off_it_makes_nothing() -> None:
    tracer = make_tracer("s", None)
    assert type(tracer) is Tracer
    assert tracer.begin("x") is NO_SPAN
    parent = TraceContext.new(sampled=True)
    span = tracer.begin("x", parent=parent)
    assert (span.context, span.recording) == (parent, False)
    span.set({"a": 1})
    span.event("e")
    span.error("k")
    span.end()
    tracer.close()


@pytest.mark.parametrize(
    ("endpoint", "env", "url"),
    [
        (None, {}, None),
        ("http://c:4318", {}, "http://c:4318/v1/traces"),
        ("http://c:4318/", {}, "http://c:4318/v1/traces"),
        ("http://c/otlp/v1/traces", {}, "http://c/otlp/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e:4318"}, "http://e:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://e/x"}, "http://e/x"),
        ("http://c", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://e/x"}, "http://c/v1/traces"),
        ("http://c", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://c/v1/traces"),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://e:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            None,
        ),
        ("http://c", {"OTEL_SDK_DISABLED": "true"}, None),
        ("http://c", {"OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_where_spans_go(
    endpoint: str | None, env: dict[str, str], url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert traces_url(endpoint) == url


def test_the_gate_lets_a_share_through() -> None:
    chances = iter([0.0, 0.24, 0.25, 0.99])
    gate = Gate(0.25, 0.0, chance=lambda: next(chances))
    assert [gate() for _ in range(4)] == [True, True, False, False]


def test_the_gate_lets_so_many_a_second_through() -> None:
    now = 100.0
    gate = Gate(1.0, 2.0, clock=lambda: now)
    assert [gate() for _ in range(4)] == [True, True, False, False]
    now += 0.5
    assert [gate() for _ in range(2)] == [True, False]
    now += 3600  # an idle hour is not saved up
    assert [gate() for _ in range(3)] == [True, True, False]


def test_a_gate_of_less_than_one_a_second_opens_in_time() -> None:
    now = 0.0
    gate = Gate(1.0, 0.1, clock=lambda: now)
    assert gate()
    now = 9.0
    assert not gate()
    now = 11.0
    assert gate()


def test_a_span_arrives_with_what_was_said_of_it(otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
    tracer = make_tracer("ours", otlp.url, resource={"service.instance.id": "i"})
    elsewhere = TraceContext.new(sampled=True)
    root = tracer.begin("a", Kind.SERVER, attributes={"n": 1}, links=[elsewhere, None])
    child = tracer.begin("b", parent=root.context, start_ns=5)
    child.set({"s": "t"})
    child.event("e", {"k": True})
    child.error("bad", "it was bad")
    child.rename("c")
    child.end(9)
    root.end()
    tracer.close()
    one, two = sorted(otlp.spans, key=lambda span: span.name)
    assert (one.name, one.kind, one.parent_id, one.attributes) == ("a", "SERVER", "", {"n": 1})
    assert one.links == ((elsewhere.trace_id, elsewhere.span_id),)
    assert (two.name, two.parent_id, two.trace_id) == ("c", one.span_id, one.trace_id)
    assert (two.start_ns, two.end_ns, two.error) == (5, 9, True)
    assert two.attributes == {"s": "t", "error.type": "bad"}
    assert two.events == {"e": {"k": True}}
    assert one.service == "ours"
    assert otlp.headers[0]["x-key"] == "secret"


def test_the_environment_names_the_service_and_samples(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracer = make_tracer("ours", otlp.url)
    dropped = tracer.begin("dropped")
    assert not dropped.recording
    assert not dropped.context.sampled
    tracer.close()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    tracer = make_tracer("ours", otlp.url, ratio=0.0)  # the environment's sampler replaces it
    tracer.begin("kept").end()
    tracer.begin("kept too", parent=TraceContext.new(sampled=False)).end()
    tracer.close()
    assert {span.name for span in otlp.spans} == {"kept", "kept too"}
    assert {span.service for span in otlp.spans} == {"theirs"}


def test_what_the_gate_refuses_has_a_trace_id_all_the_same(otlp: OtlpReceiver) -> None:
    tracer = make_tracer("s", otlp.url, ratio=0.0)
    span = tracer.begin("x")
    assert type(span) is Span
    assert not span.context.sampled
    wanted = tracer.begin("y", parent=TraceContext.new(sampled=True))  # the caller's word counts
    assert wanted.recording
    wanted.end()
    tracer.close()
    assert [span.name for span in otlp.spans] == ["y"]


def test_a_collector_that_is_away_does_not_hold_up_the_end_and_nothing_goes_on_trying(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("monitoring.otlp._CLOSE_S", 0.2)
    tracer = make_tracer("s", f"http://127.0.0.1:{free_port()}")
    tracer.begin("x").end()
    with capture_logs() as logs:
        tracer.close()
    assert "spans_left_behind" in [line["event"] for line in logs]
    names = ("last-spans", "OtelBatchSpanRecordProcessor")
    # Left alone, the retries would go on for more than five seconds.
    wait_until(lambda: not any(thread.name in names for thread in threading.enumerate()), timeout_s=4.5)


OURS = re.compile(r"penstock\.[a-z_.]+\Z")
DOTTED = re.compile(r"[a-z_]+(\.[a-z_]+)+\Z")
SEMCONV = {
    value
    for module in (
        client_attributes,
        error_attributes,
        gen_ai_attributes,
        http_attributes,
        messaging_attributes,
        network_attributes,
        url_attributes,
        user_agent_attributes,
    )
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


@pytest.mark.parametrize(
    "name", ["api/middleware/trace.py", "workers/attempts/spans.py", "monitoring/otlp.py"]
)
def test_attributes_have_opentelemetrys_names_or_are_marked_as_ours(name: str) -> None:
    found = [
        key.value
        for node in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and DOTTED.match(key.value)
    ]
    unknown = {key for key in found if not OURS.match(key) and not key.startswith("service.")} - SEMCONV
    assert not unknown
    assert found
