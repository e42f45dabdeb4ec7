"""What the operator does next, from what it sees: without a cluster."""

from __future__ import annotations

from deploy.operator.plan import ending
from deploy.operator.seen import Fleet, Seen, Version
from deploy.operator.steps import Undeclare
from penstock.fleet_models import DeclaredPool


def declared(*pools: str) -> Fleet:
    said = tuple(DeclaredPool.model_validate({"id": pool, "model": "m", "slots": 1}) for pool in pools)
    return Fleet("chat", declared=said)


def test_a_refused_pool_that_goes_leaves_the_declaration_of_the_other() -> None:
    assert ending(Seen(foreign="theirs", fleet=declared("chat", "chat-v2"))) == ((), True)


def test_a_pool_that_goes_takes_its_own_declarations_along() -> None:
    mine = Version("chat-v2", "penstock-worker-chat-v2", "f", 0, 0, True, None)
    steps, done = ending(Seen((mine,), foreign="theirs", fleet=declared("chat", "chat-v2")))
    assert (steps, done) == ((Undeclare("chat-v2"),), False)
    # Declared, and its Deployment could not be made.
    assert ending(Seen(fleet=declared("chat"))) == ((Undeclare("chat"),), False)
