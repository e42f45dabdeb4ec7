"""The schema's table: it has each key, and how long each lasts."""

from __future__ import annotations

import pytest

from broker.db.keys import Keys
from tests.lifetimes import _KEYS, FOR_GOOD, LIFETIMES, RULES, name_of


def test_the_table_says_how_long_each_key_lasts() -> None:
    assert LIFETIMES.keys() == _KEYS.keys()
    assert {"limits", "pools", "pool", "schema", "models"} <= FOR_GOOD
    assert FOR_GOOD.isdisjoint({"job", "jobs", "backlog", "idem", "worker_orders"})
    assert all("TTL" in LIFETIMES[name] for name in LIFETIMES if name not in FOR_GOOD | RULES.keys())


@pytest.mark.parametrize(
    ("args", "argument"),
    [
        (("job", "job_1"), "job_1"),
        (("worker", "a@b"), "a@b"),
        (("worker_jobs", "a@b"), "a@b"),
        (("backlog", "p", "low", ""), "p"),
        (("backlog", "p", "low", "of:a tenant"), "p"),
        (("pool", "p"), "p"),
        (("bulk_bell", "p"), "p"),
        (("own_bell", "w"), "w"),
        (("files_announced",), ""),
        (("file_was", "x"), "x"),
        (("batch_open", "x"), "x"),
    ],
)
def test_a_key_is_told_from_all_others(args: tuple[str, ...], argument: str) -> None:
    keys = Keys("ns")
    assert name_of(keys, keys(*args)) == (args[0], argument)


def test_a_key_that_the_schema_does_not_know_is_found() -> None:
    with pytest.raises(AssertionError, match="does not know"):
        name_of(Keys("ns"), "ns:poll:x")
