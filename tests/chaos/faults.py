"""Every fault of DESIGN section 10, each as one coroutine: it harms the stack, and sees to it that the harm passes.

Dead apis, coordinators and workers are started again by the stack's supervisor; Redis by the fault that stopped it.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis.exceptions import RedisError, ResponseError

from tests.chaos.children import Child
from tests.chaos.ledger import Ledger
from tests.chaos.stack import Stack
from tests.pace import Pace
from tests.processes import descendants
from tests.support import eventually, free_port

DRAIN_SLACK_S = 2.0
"""Beyond the drain deadline, a worker has this long to exit, on an idle machine."""


@dataclass(frozen=True)
class Scene:
    """Where a fault happens.

    Attributes:
        stack: the victim.
        ledger: where a broken promise is written.
        rng: what it draws from.
        stalls_s: how long a stalled Redis stalls.
        pace: what bounds on time are stretched by.
    """

    stack: Stack
    ledger: Ledger
    rng: random.Random
    stalls_s: tuple[float, ...] = (1.0, 2.0, 4.0)
    pace: Pace = field(default_factory=Pace)


Fault: TypeAlias = Callable[[Scene], Awaitable[None]]


async def kill_worker(scene: Scene) -> None:
    """SIGKILL a worker at any moment."""
    _kill(scene, _busy(scene))


async def kill_api(scene: Scene) -> None:
    """SIGKILL an api process at any moment."""
    _kill(scene, scene.rng.choice(scene.stack.apis))


async def kill_coordinator(scene: Scene) -> None:
    """SIGKILL a coordinator at any moment."""
    _kill(scene, scene.rng.choice(scene.stack.coordinators))


async def kill_redis(scene: Scene) -> None:
    """SIGKILL Redis, and start it again on its files and port."""
    stack = scene.stack
    with stack.redis_away():
        stack.redis.signal(signal.SIGKILL)
        await eventually(lambda: not stack.redis.alive)
        stack.redis.poll()
        await asyncio.sleep(scene.rng.uniform(0, 2.0))
        await stack.start_redis()


async def power_cut(scene: Scene) -> None:
    """SIGKILL every process in the same moment."""
    stack = scene.stack
    for child in stack.children:
        _kill(scene, child)
    await kill_redis(scene)


async def freeze_worker(scene: Scene) -> None:
    """SIGSTOP a worker past its lease, then SIGCONT: it must write nothing and end."""
    past_its_lease_s = scene.stack.lease_ttl_s + scene.rng.uniform(1, 3)
    await _freeze(_busy(scene), past_its_lease_s)


async def pause_worker(scene: Scene) -> None:
    """SIGSTOP a worker for less than its lease."""
    within_its_lease_s = scene.stack.lease_ttl_s * scene.rng.uniform(0.1, 0.4)
    await _freeze(scene.rng.choice(scene.stack.workers), within_its_lease_s, "paused")


async def freeze_api(scene: Scene) -> None:
    """SIGSTOP an api process for a while."""
    await _freeze(scene.rng.choice(scene.stack.apis), scene.rng.uniform(0.5, 4))


async def cut_connections(scene: Scene) -> None:
    """Cut every connection to Redis, again and again."""
    stack, rng = scene.stack, scene.rng
    with stack.redis_away():
        for _ in range(rng.randint(3, 12)):
            with stack.admin() as client, suppress(RedisError):
                for kind in rng.choice([("normal",), ("pubsub",), ("normal", "pubsub")]):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(rng.uniform(0.02, 0.4))


async def stall_redis(scene: Scene) -> None:
    """SIGSTOP Redis: connections stand and say nothing."""
    with scene.stack.redis_away():
        scene.stack.redis.signal(signal.SIGSTOP)
        await asyncio.sleep(scene.rng.choice(scene.stalls_s))
        scene.stack.redis.signal(signal.SIGCONT)


async def fill_memory(scene: Scene) -> None:
    """Reach maxmemory: Redis refuses every write that would need some, until the limit is lifted."""
    stack = scene.stack
    with stack.redis_away():
        with stack.admin() as client:
            client.config_set("maxmemory", 1)
        await asyncio.sleep(scene.rng.uniform(0.5, 3.0))
        with stack.admin() as client:
            client.config_set("maxmemory", 0)


async def demote_redis(scene: Scene) -> None:
    """Make the master a replica of nobody who answers: READONLY; then a master again."""
    stack = scene.stack
    with stack.redis_away():
        with stack.admin() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        await asyncio.sleep(scene.rng.uniform(0.5, 3.0))
        with stack.admin() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")


async def lose_claims(scene: Scene) -> None:
    """Cut the connections on which workers claim, again and again, so that answers are lost on their way."""
    with scene.stack.admin() as client:
        for _ in range(15):
            for one in client.client_list():
                if one["cmd"] in {"fcall", "blpop"}:
                    with suppress(ResponseError):  # it has gone
                        client.client_kill_filter(_id=one["id"])
            await asyncio.sleep(scene.rng.uniform(0.0, 0.1))


async def lose_functions(scene: Scene) -> None:
    """Delete every function library."""
    with scene.stack.admin() as client:
        client.function_flush()


async def ring_in_vain(scene: Scene) -> None:
    """Ring the bells for nobody's job, and take away what others rang."""
    keys = scene.stack.keys
    with scene.stack.admin() as client:
        for name in ("bell", "bulk_bell"):
            client.lpush(keys(name, "default"), *"12345")
            await asyncio.sleep(scene.rng.uniform(0.0, 0.05))
            client.delete(keys(name, "default"))


async def drain_worker(scene: Scene) -> None:
    """SIGTERM under load, at times twice: exit status 0, in time."""
    await drain(scene, scene.rng.choice(scene.stack.workers), twice=scene.rng.random() < 0.3)


async def drain(scene: Scene, child: Child, *, twice: bool = False) -> None:
    """Drain one worker, and see that it ends in time."""
    stack = scene.stack
    if not child.alive or child.frozen or child.life.ready is None:
        return
    life, began = child.life, time.monotonic()
    child.signal(signal.SIGTERM)
    if twice:
        await asyncio.sleep(scene.rng.uniform(0.05, 0.5))
        if child.life is life:  # or it has ended, and another is starting
            child.signal(signal.SIGTERM)
    deadline_s = float(stack.settings["drain_timeout_s"])
    await eventually(lambda: life.status is not None, deadline_s + DRAIN_SLACK_S + 30)
    took_s = time.monotonic() - began
    allowed_s = deadline_s + scene.pace.stretch(DRAIN_SLACK_S)
    scene.ledger.counts["drains"] += 1
    if took_s > allowed_s and not life.reached:
        scene.ledger.break_(
            "a drain ends by its deadline and 2 s", worker=life.name, pid=life.pid, took_s=took_s
        )


async def kill_engine(scene: Scene) -> None:
    """SIGKILL vLLM's engine core beneath a worker."""
    child = scene.rng.choice(scene.stack.workers)
    if not child.alive:
        return
    cores = [p for p in descendants(child.life.pid) if "EngineCore" in p.name()]
    for core in cores:
        child.life.fates.setdefault("engine", time.time())
        core.send_signal(signal.SIGKILL)


SHARES: dict[Fault, int] = {
    kill_worker: 5,
    kill_api: 4,
    kill_coordinator: 1,
    kill_redis: 3,
    power_cut: 1,
    freeze_worker: 2,
    pause_worker: 1,
    freeze_api: 1,
    cut_connections: 3,
    stall_redis: 2,
    fill_memory: 2,
    demote_redis: 2,
    lose_claims: 3,
    lose_functions: 1,
    ring_in_vain: 2,
    drain_worker: 4,
}
"""The faults of a random run, and how often each is drawn."""


async def inflict(fault: Fault, scene: Scene) -> None:
    """Let a fault happen, and write down that it did."""
    name = fault.__name__
    scene.stack.note("fault", fault=name)
    scene.ledger.counts[f"fault.{name}"] += 1
    await fault(scene)
    scene.stack.note("fault_over", fault=name)


def drawn_failpoint(rng: random.Random, *, worker: bool, lease_ttl_s: float) -> str:
    """Draw a window, an action and a count for a new process."""
    if not worker:
        window = rng.choice(["api.before_accept", "api.after_accept", "api.mid_stream", "api.mid_events"])
        return f"{window}=kill@{rng.randint(1, 60)}"
    odd: dict[str, str] = {
        "engine.run": "raise",
        "worker.before_beat": f"sleep:{lease_ttl_s + 2}",
    }
    claims = ["worker.claimed", "worker.after_claim", "worker.before_finish", "worker.before_ack"]
    window = rng.choice(
        [*claims, *claims, "worker.before_append", "worker.after_append", "worker.before_release", *odd]
    )
    return f"{window}={odd.get(window) or rng.choice(['kill', 'kill', 'stop'])}@{rng.randint(1, 60)}"


def _busy(scene: Scene) -> Child:
    """Draw a worker; if it holds no job, take the one with the most instead: the end of an idle one shows nothing."""
    drawn: Child = scene.rng.choice(scene.stack.workers)
    held = scene.stack.jobs_held()
    return drawn if held[drawn] else max(held, key=lambda worker: (held[worker], worker is drawn))


def _kill(scene: Scene, child: Child) -> None:
    child.respawn_at = time.time() + scene.rng.uniform(0, 1.5)
    child.signal(signal.SIGKILL)


async def _freeze(child: Child, seconds: float, fate: str = "frozen") -> None:
    if not child.alive or child.frozen:
        return
    life: Any = child.life
    child.signal(signal.SIGSTOP, fate)
    await asyncio.sleep(seconds)
    if child.life is life:
        child.signal(signal.SIGCONT)
