"""Tables of penstock.toml whose models share devices: the pools and the processes that they make, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.server.fleet import Part, parts_of_machine, parts_of_worker
from penstock.server.settings import UpSettings
from workers.devices.pools import PoolsStartError, read_tables
from workers.devices.swap_groups import pool_name

Write = Callable[[str], None]

SHARED = """
[pools.gpu]
engine = "simulated"
models = ["org/Big-7B", "org/small.v2"]
gpus = "0,1"
tensor_parallel = 2
swap_max_wait_s = 9
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_SETTINGS_FILE")

    def write(text: str) -> None:
        (tmp_path / "penstock.toml").write_text(text)

    return write


def machine() -> list[Part]:
    return parts_of_machine(UpSettings(), {}, None)


def test_several_models_in_a_table_are_a_pool_each(file: Write) -> None:
    file(SHARED)
    big, small = machine()
    assert [part.settings.pool for part in (big, small)] == ["gpu-Big-7B", "gpu-small-v2"]
    assert [part.settings.model for part in (big, small)] == ["org/Big-7B", "org/small.v2"]
    for part in (big, small):
        assert (part.settings.swap_group, part.settings.swap_max_wait_s) == ("gpu", 9)
        assert part.place == "GPU 0,1"
    (one,) = parts_of_worker({"pool": "gpu-small-v2"})
    assert one.settings.model == "org/small.v2"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/Model-7B", "t-Model-7B"),
        ("/models/a b.gguf", "t-a-b-gguf"),
        ("/models/folder/", "t-folder"),
        ("m" * 80, f"t-{'m' * 62}"),
    ],
)
def test_a_pool_is_named_after_its_table_and_its_model(model: str, name: str) -> None:
    assert pool_name("t", model) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = ['a']", r"\[pools.gpu\] models: it must be a list of at least two"),
        ("models = 'a'", "models: it must be a list"),
        ("models = ['a', 'b']\naliases = ['x']", "aliases: each of its models has its own"),
        ("models = ['a', 'b']\nswap_group = 'x'", "swap_group: each of its models"),
        ("models = ['x/a', 'y/a']", "'x/a' and 'y/a' would both be the pool 'gpu-a'"),
        ("models = ['a', 'b']\n[pools.gpu-b]\nmodel = 'c'", "there is another pool 'gpu-b'"),
        ("modles = ['a', 'b']", "modles: there is no such key"),
    ],
)
def test_models_that_make_no_pools_are_refused(file: Write, text: str, message: str) -> None:
    file(f"[pools.gpu]\nengine = 'simulated'\n{text}\n")
    with pytest.raises(PoolsStartError, match=message):
        read_tables()


def two(first: str, second: str) -> str:
    return "".join(
        f"[pools.{name}]\nengine = 'simulated'\nmodel = '{name}'\nswap_group = 's'\n{more}\n"
        for name, more in (("a", first), ("b", second))
    )


def test_pools_of_a_swap_group_share_their_gpus(file: Write) -> None:
    file(two("gpus = '1'", "gpus = '1'"))
    assert [part.place for part in machine()] == ["GPU 1", "GPU 1"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            "gpus = '0,1'\ntensor_parallel = 2",
            "gpus = '1'",
            r"GPU 1 is shared with \[pools.a\], which has other GPUs beside it \(GPU 0,1 there and GPU 1 here\)",
        ),
        ("swap_awake = 2", "", r"\[pools.b\] swap_awake: it is 1, but 2 in \[pools.a\]"),
    ],
)
def test_pools_of_a_swap_group_must_agree(file: Write, first: str, second: str, message: str) -> None:
    file(two(first, second))
    with pytest.raises(PoolsStartError, match=message):
        machine()


def test_models_that_sleep_take_no_share_of_the_memory(file: Write) -> None:
    file("[pools.cpu]\nmodels = ['a', 'b', 'c']\n[pools.other]\nmodel = 'd'\n")
    shares = {flag for part in machine() for flag in part.flags if "memory-share" in flag}
    assert shares == {"--cpu-memory-share=0.5000"}
    file("[pools.cpu]\nmodels = ['a', 'b', 'c']\n")
    assert not any("memory-share" in flag for part in machine() for flag in part.flags)
