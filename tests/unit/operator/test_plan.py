"""What the operator does next, from what is asked for and what is there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.operator import objects
from deploy.operator.base import Base
from deploy.operator.objects import FINGERPRINT
from deploy.operator.plan import ending, plan
from deploy.operator.pool import ModelPool
from deploy.operator.seen import Fleet, Pod, Seen, Version, address_of
from deploy.operator.status import status
from deploy.operator.steps import (
    AddAdapter,
    Apply,
    Declare,
    Drain,
    Mark,
    PinAdapter,
    Remove,
    RemoveAdapter,
    Scale,
    Step,
    Switch,
    Undeclare,
    Unscale,
)
from penstock.adapter_models import Adapter
from penstock.fleet_models import DeclaredPool, Lane, Pool, Worker

POD = {
    "containers": [
        {
            "name": "worker",
            "args": ["worker", "--pool", "__pool__"],
            "env": [],
            "startupProbe": {},
            "resources": {},
        }
    ],
    "volumes": [{"name": "settings", "configMap": {"name": "s"}}],
}
DEPLOYMENT = {
    "metadata": {"labels": {"penstock.dev/pool": "__pool__"}},
    "spec": {"selector": {}, "template": {"metadata": {"labels": {}}, "spec": POD}},
}
BASE = Base(
    release="penstock",
    images={"gpu": "g", "cpu": "c", "light": "l"},
    secret="s",
    drain_s=120,
    start_s=1800,
    shm_size="2Gi",
    settings={},
    target=0.8,
    deployment=DEPLOYMENT,
    scaling_deployment=DEPLOYMENT,
    scaled_object={
        "spec": {
            "cooldownPeriod": 300,
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}}
                }
            },
            "triggers": [{"name": "backlog", "metadata": {"threshold": "1", "query": "of __pool__"}}],
        }
    },
)
ROOT = Path(__file__).parents[3]
NOW = "2026-11-30T12:00:00+00:00"


def a_pool(status: dict[str, Any] | None = None, **spec: Any) -> ModelPool:
    return ModelPool("chat", "llm", "u", 3, {"model": "m1", **spec}, status or {})


def a_version(pool: str = "chat", of: ModelPool | None = None, **facts: Any) -> Version:
    given: dict[str, Any] = {"replicas": 1, "ready": facts.get("replicas", 1), **facts}
    return Version(pool, f"penstock-worker-{pool}", (of or a_pool()).fingerprint, **given)


def workers(*busy: int, pool: str = "chat", state: str = "ready") -> tuple[Worker, ...]:
    return tuple(
        Worker(
            id=f"{pool}-{n}",
            name="w",
            pool=pool,
            running=jobs,
            state=state,
            metrics_url=f"http://10.0.0.{n}:9100/m",
        )
        for n, jobs in enumerate(busy)
    )


def pods(count: int, pool: str = "chat", **facts: Any) -> tuple[Pod, ...]:
    return tuple(Pod(f"{pool}-pod-{n}", pool, f"10.0.0.{n}", **facts) for n in range(count))


def declared(pool: str = "chat", slots: int | None = None) -> DeclaredPool:
    return DeclaredPool(id=pool, model="chat", slots=slots)


def a_fleet(serving: str = "chat", **facts: Any) -> Fleet:
    return Fleet(serving, **facts)


def steps(pool: ModelPool, seen: Seen) -> list[Step]:
    """Return the steps but those that only keep objects as they are."""
    return [one for one in plan(BASE, pool, seen).steps if not (isinstance(one, Apply) and one.what is None)]


def applied(pool: ModelPool, seen: Seen) -> list[tuple[str, str]]:
    made = (one for step in plan(BASE, pool, seen).steps if isinstance(step, Apply) for one in step.objects)
    return [(one["kind"], one["metadata"]["name"]) for one in made]


def test_a_new_pool_is_declared_and_started() -> None:
    seen = Seen(fleet=Fleet("chat"))
    first, apply, scale = steps(a_pool(replicas=2), seen)
    assert first == Declare("chat", "chat")
    assert isinstance(apply, Apply)
    assert [one["kind"] for one in apply.objects] == ["Deployment", "ConfigMap"]
    assert apply.objects[0]["metadata"]["annotations"] == {FINGERPRINT: a_pool().fingerprint}
    assert "replicas" not in apply.objects[0]["spec"]
    assert scale == Scale("penstock-worker-chat", 2)
    assert plan(BASE, a_pool(), seen).phase == "Starting"


def test_a_pool_that_was_there_before_begins_with_the_version_that_serves() -> None:
    assert ("Deployment", "penstock-worker-chat-v3") in applied(a_pool(), Seen(fleet=Fleet("chat-v3")))


def test_a_pool_as_it_should_be_is_left_alone() -> None:
    seen = Seen((a_version(),), pods(1), fleet=a_fleet(workers=workers(0)))
    assert steps(a_pool(), seen) == []
    assert plan(BASE, a_pool(), seen).phase is None


def test_more_replicas_are_a_scale() -> None:
    seen = Seen((a_version(),), pods(1), fleet=a_fleet(workers=workers(0)))
    (one,) = steps(a_pool(replicas=3), seen)
    assert isinstance(one, Scale)
    assert one.replicas == 3


def test_the_least_busy_workers_drain_before_their_pods_go() -> None:
    seen = Seen((a_version(replicas=4),), pods(4), fleet=a_fleet(workers=workers(5, 0, 9, 2)))
    *rest, last = steps(a_pool(replicas=2), seen)
    assert rest == [
        *(Mark("chat-pod-1"), Mark("chat-pod-3")),
        *(Drain("chat-1", "chat-pod-1"), Drain("chat-3", "chat-pod-3")),
    ]
    assert isinstance(last, Scale)
    assert last.replicas == 2


def test_a_pod_that_was_chosen_before_a_restart_is_chosen_again() -> None:
    chosen = replace(pods(3)[2], marked=True)
    fleet = a_fleet(workers=(*workers(5, 0), *workers(9, 9, 9, state="draining")[2:]))
    seen = Seen((a_version(replicas=3),), (*pods(2), chosen), fleet=fleet)
    (one,) = steps(a_pool(replicas=2), seen)
    assert isinstance(one, Scale)


def test_a_pod_without_a_worker_goes_first() -> None:
    seen = Seen((a_version(replicas=2, ready=1),), pods(2), fleet=a_fleet(workers=workers(0)[:1]))
    assert steps(a_pool(replicas=1), seen)[0] == Mark("chat-pod-1")


def test_a_mark_is_taken_back_if_the_pool_grows_again_but_not_while_a_pod_is_about_to_go() -> None:
    marked = pods(2, marked=True)
    fleet = a_fleet(workers=workers(0, 0))
    grown = Seen((a_version(replicas=2),), marked, fleet=fleet)
    assert steps(a_pool(replicas=2), grown) == [Mark("chat-pod-0", on=False), Mark("chat-pod-1", on=False)]
    going = Seen((a_version(replicas=1),), marked, fleet=fleet)
    assert steps(a_pool(replicas=1), going) == []


def test_another_model_starts_beside_the_one_that_serves() -> None:
    pool = a_pool(model="m2", replicas=3)
    seen = Seen((a_version(replicas=2),), pods(2), fleet=a_fleet(workers=workers(1, 1)))
    apply, scale = steps(pool, seen)
    assert isinstance(apply, Apply)
    assert apply.what == "Starting 2 workers of the new version chat-v2 with m2"
    assert scale == Scale("penstock-worker-chat-v2", 2)
    assert ("Deployment", "penstock-worker-chat") not in applied(pool, seen)  # its pods are of the old model
    assert plan(BASE, pool, seen).phase == "RollingOut"


@pytest.mark.parametrize(
    ("ready", "alive", "settled", "switches"),
    [(2, 2, True, True), (1, 2, True, False), (2, 1, True, False), (2, 2, False, False)],
)
def test_it_serves_once_all_of_its_workers_are_ready(
    ready: int, alive: int, settled: bool, switches: bool
) -> None:
    pool = a_pool(model="m2")
    new = a_version("chat-v2", pool, replicas=2, ready=ready, settled=settled)
    fleet = a_fleet(workers=(*workers(1, 1), *workers(*[0] * alive, pool="chat-v2")))
    seen = Seen((a_version(replicas=2), new), fleet=fleet)
    assert (Switch("chat", "chat-v2") in steps(pool, seen)) is switches


def test_after_the_switch_the_old_version_drains_then_goes() -> None:
    pool = a_pool(model="m2")
    new = a_version("chat-v2", pool)
    fleet = a_fleet("chat-v2", workers=workers(0, pool="chat-v2"))
    drains = Seen((a_version(), new), (*pods(1), *pods(1, "chat-v2")), fleet=fleet)
    (scale,) = steps(pool, drains)
    assert isinstance(scale, Scale)
    assert (scale.name, scale.replicas) == ("penstock-worker-chat", 0)
    ends = replace(drains, versions=(a_version(replicas=0, ready=0), new), pods=pods(1, leaving=True))
    assert steps(pool, ends) == []
    assert plan(BASE, pool, ends).phase == "Draining"
    assert steps(pool, replace(ends, pods=())) == [Remove("penstock-worker-chat")]


def test_the_declaration_follows_the_version() -> None:
    pool = a_pool(model="m2")
    fleet = a_fleet("chat-v2", declared=(declared("chat"),), workers=workers(0, pool="chat-v2"))
    seen = Seen((a_version("chat-v2", pool),), pods(1, "chat-v2"), fleet=fleet)
    assert steps(pool, seen) == [Undeclare("chat")]
    asleep = a_pool(model="m2", scaling={"min": 0, "max": 2, "slots": 8})
    seen = replace(seen, scaled=frozenset({"chat-v2"}), versions=(a_version("chat-v2", asleep),))
    assert steps(asleep, seen) == [Undeclare("chat"), Declare("chat-v2", "chat", slots=8)]


def test_a_pool_of_fixed_size_is_declared_only_while_it_starts() -> None:
    def made(pool: ModelPool, version: Version, *busy: int, known: bool) -> list[Step]:
        fleet = a_fleet(workers=workers(*busy), declared=(declared(),) if known else ())
        found = steps(pool, Seen((version,), pods(version.replicas), fleet=fleet))
        return [one for one in found if isinstance(one, Declare | Undeclare)]

    for pool in (a_pool(), a_pool(scaling={"min": 1, "max": 2, "slots": 8})):
        slots = None if pool.scaling is None else 8
        declare = [Declare("chat", "chat", slots=slots)]
        assert [one for one in steps(pool, Seen(fleet=a_fleet())) if isinstance(one, Declare)] == declare
        starting = a_version(ready=0)
        kept = [] if pool.scaling is None else declare  # with its slots
        assert made(pool, starting, known=True) == kept
        assert made(pool, a_version(), 0, known=True) == [Undeclare("chat")]
        assert (
            made(pool, starting, known=False) == []
        )  # its workers died: calls are refused, and the alert fires
        assert made(pool, a_version(replicas=0, ready=0), known=False) == declare  # it starts again


def test_another_served_name_is_declared_with_the_switch_and_not_before() -> None:
    pool = a_pool(servedModelName="chat2")
    asleep = Seen((a_version(replicas=0, ready=0),), fleet=a_fleet(declared=(declared(),)))
    assert not [one for one in steps(pool, asleep) if isinstance(one, Declare | Undeclare)]


def test_a_change_of_mind_ends_what_was_begun_and_numbers_go_on() -> None:
    begun = a_version("chat-v2", a_pool(model="m2"), ready=0)
    fleet = a_fleet(workers=workers(0))
    back = Seen((a_version(), begun), pods(1), fleet=fleet)
    assert [one.name for one in steps(a_pool(), back) if isinstance(one, Scale)] == [
        "penstock-worker-chat-v2"
    ]
    third = a_pool(model="m3")
    assert ("Deployment", "penstock-worker-chat-v3") in applied(third, back)
    assert [one.replicas for one in steps(third, back) if isinstance(one, Scale)] == [1, 0]


def test_a_version_that_does_not_start_is_reported_and_the_old_one_serves_on() -> None:
    pool = a_pool(model="m2")
    new = a_version("chat-v2", pool, ready=0, stuck="deadline exceeded; ImagePullBackOff: no such image")
    said = plan(BASE, pool, Seen((a_version(), new), fleet=a_fleet(workers=workers(0))))
    assert said.trouble == "VersionNotReady"
    assert "ImagePullBackOff" in said.told


def test_keda_scales_the_version_that_serves_and_no_other() -> None:
    pool = a_pool(scaling={"min": 0, "max": 8, "slots": 256})
    fleet = a_fleet(declared=(declared(slots=256),))
    seen = Seen((a_version(replicas=0, ready=0),), scaled=frozenset({"chat"}), fleet=fleet)
    assert ("ScaledObject", "penstock-worker-chat") in applied(pool, seen)
    assert steps(pool, seen) == []  # KEDA's number of replicas is not ours to change
    other = a_pool(scaling={"min": 0, "max": 8, "slots": 256}, model="m2")
    assert ("ScaledObject", "penstock-worker-chat-v2") not in applied(other, seen)
    new = a_version("chat-v2", other)
    after = Seen((seen.versions[0], new), scaled=frozenset({"chat"}), fleet=a_fleet("chat-v2", declared=()))
    assert ("ScaledObject", "penstock-worker-chat-v2") in applied(other, after)
    assert Unscale("penstock-worker-chat") in steps(other, after)


def test_without_scaling_again_keda_lets_go_first() -> None:
    seen = Seen((a_version(replicas=5),), pods(1), frozenset({"chat"}), fleet=a_fleet(workers=workers(0)))
    kinds = [type(one) for one in steps(a_pool(replicas=6), seen)]
    assert kinds == [Unscale, Scale]


def test_adapters_follow_the_spec_once_a_worker_is_there() -> None:
    spec = [{"name": "sql", "source": "hf:a/sql"}, {"name": "law", "source": "hf:a/law", "pinned": True}]
    pool = a_pool({"adapters": ["old", "law"]}, adapters=spec)
    there = tuple(
        Adapter(id=f"chat/{name}", name=name, pool="chat", source=f"hf:a/{name}")
        for name in ("old", "law", "others")
    )
    seen = Seen((a_version(),), pods(1), fleet=a_fleet(workers=workers(0), adapters=there))
    made = steps(pool, seen)
    assert made[0] == RemoveAdapter("chat", "old")
    assert made[1:] == [AddAdapter("chat", pool.adapters[0]), PinAdapter("chat", "law", pinned=True)]
    early = replace(seen, fleet=a_fleet(adapters=there))
    assert not [one for one in steps(pool, early) if isinstance(one, AddAdapter)]


NO_SURGE: dict[str, Any] = {"model": "m2", "surge": False, "replicas": 2}


def test_without_surge_the_old_workers_end_first_and_calls_wait() -> None:
    pool, alive = a_pool(**NO_SURGE), a_fleet(workers=workers(1, 1))
    declare, scale = steps(pool, Seen((a_version(replicas=2),), pods(2), fleet=alive))
    assert declare == Declare("chat", "chat")
    assert isinstance(scale, Scale)
    assert (scale.name, scale.replicas) == ("penstock-worker-chat", 0)
    known = a_fleet(declared=(declared(),))
    ended = a_version(replicas=0, ready=0)
    assert steps(pool, Seen((ended,), pods(1, leaving=True), fleet=known)) == []
    apply, scale = steps(pool, Seen((ended,), fleet=known))
    assert isinstance(apply, Apply)
    assert scale == Scale("penstock-worker-chat-v2", 2)
    new = a_version("chat-v2", pool, replicas=2)
    ready = replace(known, workers=workers(0, 0, pool="chat-v2"))
    assert steps(pool, Seen((ended, new), pods(2, "chat-v2"), fleet=ready)) == [Switch("chat", "chat-v2")]
    after = a_fleet("chat-v2", declared=(declared(),), workers=ready.workers)
    assert steps(pool, Seen((ended, new), pods(2, "chat-v2"), fleet=after)) == [
        Undeclare("chat"),
        Remove("penstock-worker-chat"),
    ]


def test_without_surge_keda_lets_go_before_the_old_workers_end() -> None:
    pool = a_pool(model="m2", surge=False, scaling={"min": 1, "max": 2, "slots": 8})
    fleet = a_fleet(workers=workers(1), declared=(declared(slots=8),))
    kinds = [
        type(one) for one in steps(pool, Seen((a_version(),), pods(1), frozenset({"chat"}), fleet=fleet))
    ]
    assert kinds == [Unscale, Scale]


def test_without_surge_a_change_of_mind_starts_the_old_workers_again() -> None:
    broken = a_version("chat-v2", a_pool(**NO_SURGE), ready=0, stuck="no such image")
    fleet = a_fleet(declared=(declared(),))
    seen = Seen((a_version(replicas=0, ready=0), broken), fleet=fleet)
    said = plan(BASE, a_pool(**NO_SURGE), seen)
    assert said.trouble == "VersionNotReady"
    assert "the one before starts again if you set spec back" in said.told
    assert [
        (one.name, one.replicas) for one in steps(a_pool(surge=False), seen) if isinstance(one, Scale)
    ] == [
        ("penstock-worker-chat", 1),
        ("penstock-worker-chat-v2", 0),
    ]


def test_without_surge_calls_wait_while_a_changed_pod_starts() -> None:
    pool = a_pool(surge=False)
    made = objects.deployment(BASE, pool, "chat")
    assert made["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    changing = Seen((a_version(settled=False),), pods(1), fleet=a_fleet(workers=workers(1)))
    assert steps(pool, changing) == [Declare("chat", "chat")]
    assert steps(a_pool(), changing) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bulk_reserv": 0.2}, "bulk_reserv: there is no such key of a pool; did you mean bulk_reserve?"),
        ({"redis_url": "redis://x"}, "redis_url: there is no such key of a pool"),
        ({"bulk_reserve": None}, "bulk_reserve: null is no value"),
        ({"engine_args": ["a", None]}, "engine_args: null is no value"),
    ],
)
def test_wrong_settings_are_a_condition_before_pods_end_on_them(settings: dict[str, Any], says: str) -> None:
    pool = a_pool(settings=settings)
    said = plan(BASE, pool, Seen((a_version(),), pods(1), fleet=a_fleet(workers=workers(1))))
    assert (said.steps, said.trouble) == ((), "SettingsRefused")
    assert says in said.told
    known = a_pool(settings={"bulk_reserve": 0.2, "adapters_max": 4})
    assert plan(BASE, known, Seen(fleet=a_fleet())).trouble is None


@pytest.mark.parametrize(
    ("seen", "trouble"),
    [
        (Seen(trouble="connection refused"), "PenstockAway"),
        (Seen(foreign="penstock-worker-chat", fleet=a_fleet()), "PoolTaken"),
        (Seen(fleet=a_fleet("other")), "ServedElsewhere"),
    ],
)
def test_it_touches_nothing_that_it_cannot_know(seen: Seen, trouble: str) -> None:
    said = plan(BASE, a_pool(), seen)
    assert (said.steps, said.trouble) == ((), trouble)
    assert said.told


def test_an_end_drains_all_versions_and_waits_for_their_pods() -> None:
    seen = Seen(
        (a_version(replicas=2), a_version("chat-v2", replicas=0)),
        pods(2),
        frozenset({"chat"}),
        fleet=a_fleet(declared=(declared(),)),
    )
    made, done = ending(a_pool(), seen)
    assert [type(one) for one in made] == [Undeclare, Unscale, Scale]
    assert not done
    last = Seen((a_version(replicas=0),), pods(1, leaving=True), fleet=a_fleet(declared=()))
    assert ending(a_pool(), last) == ((), False)
    assert ending(a_pool(), replace(last, pods=())) == ((), True)


@pytest.mark.parametrize(
    ("name", "number"),
    [("chat", 1), ("chat-v2", 2), ("chat-v12", 12), ("chat-v0", None), ("chats", None), ("a-chat-v2", None)],
)
def test_versions_are_known_by_name(name: str, number: int | None) -> None:
    assert a_pool().number_of(name) == number


def test_a_worker_is_of_the_pod_with_the_address_of_its_metrics() -> None:
    assert address_of(workers(0)[0]) == "10.0.0.0"
    assert address_of(Worker(id="w", name="w", metrics_url="http://[fd00::1]:9100/metrics")) == "fd00::1"
    assert address_of(Worker(id="w", name="w")) is None


def test_the_status_says_what_leases_and_queues_say() -> None:
    pool = a_pool(replicas=3)
    alive = [replace_(one, tokens_per_s=100.4) for one in (*workers(1, 2), *workers(0, pool="chat-v2"))]
    queues = (
        Pool(pool="chat", queued=3, running=2, lanes=(Lane(lane="high", oldest_s=7.9), Lane(lane="low"))),
        Pool(pool="chat-v2", queued=1),
    )
    seen = Seen((a_version(replicas=3),), pods(3), fleet=a_fleet(workers=tuple(alive), queues=queues))
    said = status(pool, seen, plan(BASE, pool, seen), NOW)
    numbers = {
        name: said[name]
        for name in ("ready", "desired", "queued", "running", "oldestSeconds", "tokensPerSecond")
    }
    assert numbers == {
        "ready": 2,
        "desired": 3,
        "queued": 4,
        "running": 2,
        "oldestSeconds": 7,
        "tokensPerSecond": 301,
    }
    assert (said["version"], said["observedGeneration"]) == ("chat", 3)
    found = {one["type"]: (one["status"], one["reason"]) for one in said["conditions"]}
    assert found["Ready"] == ("True", "WorkersReady")
    assert found["Degraded"] == ("False", "AllIsWell")


def test_a_condition_keeps_its_time_while_it_stays() -> None:
    seen = Seen(fleet=a_fleet())
    said = status(a_pool(), seen, plan(BASE, a_pool(), seen), NOW)
    later = "2026-11-30T13:00:00+00:00"
    away = Seen(trouble="away")
    again = status(a_pool(said), away, plan(BASE, a_pool(said), away), later)
    times = {one["type"]: one["lastTransitionTime"] for one in again["conditions"]}
    assert times == {"Ready": later, "Progressing": later, "Degraded": later}
    assert again["desired"] == said["desired"]  # what was known stays
    same = status(a_pool(again), away, plan(BASE, a_pool(again), away), "2026-11-30T14:00:00+00:00")
    assert same == again


def test_a_pool_that_sleeps_is_ready() -> None:
    pool = a_pool(scaling={"min": 0, "max": 2, "slots": 1})
    seen = Seen((a_version(replicas=0, ready=0),), fleet=a_fleet())
    said = status(pool, seen, plan(BASE, pool, seen), NOW)
    assert [(one["status"], one["reason"]) for one in said["conditions"] if one["type"] == "Ready"] == [
        ("True", "Asleep")
    ]


def replace_(worker: Worker, **facts: Any) -> Worker:
    return worker.model_copy(update=facts)


def test_the_docs_name_every_reason() -> None:
    docs = (ROOT / "docs" / "operate" / "operator.md").read_text()
    code = "".join(
        (ROOT / "deploy" / "operator" / f"{name}.py").read_text() for name in ("plan", "status", "acting")
    )
    reasons = set(re.findall(r'"([A-Z][a-z]+(?:[A-Z][a-z]+)+|Starting|Draining|Settled|Asleep)"', code))
    reasons -= {"ConfigMap", "ScaledObject", "Deployment"}
    assert len(reasons) > 15
    assert {one for one in reasons if f"`{one}`" not in docs} == set()
