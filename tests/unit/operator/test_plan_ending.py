"""What the operator does next, from what it sees: without a cluster."""

from __future__ import annotations

from deploy.operator.plan import ending
from deploy.operator.pool import ModelPool
from deploy.operator.seen import Fleet, Seen, Version
from deploy.operator.steps import RemoveAdapter, Undeclare
from penstock.adapter_models import Adapter
from penstock.fleet_models import DeclaredPool

POOL = ModelPool.read(
    {
        "metadata": {"name": "chat", "namespace": "llm", "uid": "u", "generation": 1},
        "spec": {"model": "m"},
        "status": {"adapters": ["mine"]},
    }
)


def declared(*pools: str) -> Fleet:
    said = tuple(DeclaredPool.model_validate({"id": pool, "model": "m", "slots": 1}) for pool in pools)
    return Fleet("chat", declared=said)


def test_a_refused_pool_that_goes_leaves_the_declaration_of_the_other() -> None:
    assert ending(POOL, Seen(foreign="theirs", fleet=declared("chat", "chat-v2"))) == ((), True)


def test_a_pool_that_goes_takes_its_own_declarations_along() -> None:
    mine = Version("chat-v2", "penstock-worker-chat-v2", "f", 0, 0, True, None)
    steps, done = ending(POOL, Seen((mine,), foreign="theirs", fleet=declared("chat", "chat-v2")))
    assert (steps, done) == ((Undeclare("chat-v2"),), False)
    # Declared, and its Deployment could not be made.
    assert ending(POOL, Seen(fleet=declared("chat"))) == ((Undeclare("chat"),), False)


def test_the_adapters_that_it_added_go_with_it_and_no_others() -> None:
    adapters = tuple(Adapter.model_construct(id=name, name=name, pool="chat") for name in ("mine", "theirs"))
    assert ending(POOL, Seen(fleet=Fleet("chat", adapters=adapters))) == (
        (RemoveAdapter("chat", "mine"),),
        False,
    )
    assert ending(POOL, Seen(foreign="theirs", fleet=Fleet("chat", adapters=adapters))) == ((), True)
