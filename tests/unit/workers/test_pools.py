"""The tables of penstock.toml, the layout of processes that they make, and what is wrong with them."""

from __future__ import annotations

import pydantic
import pytest

from penstock.cli.worker_run import run as worker_command
from penstock.server.errors import CommandFailed, starting
from penstock.server.fleet import OPTIONS, parts_of_machine, parts_of_worker
from penstock.server.settings import UpSettings
from workers.devices.layout import device_for, group_size
from workers.devices.nvml import DeviceStartError
from workers.devices.pools import KEYS, PoolsStartError, worker_settings
from workers.engines.base import EngineStartError, ModelInfo
from workers.process.registration import aliased
from workers.settings import WorkerSettings

TWO = """
redis_url = "redis://queue:6379/0"
concurrency = 7
default_model = "fast"

[pools.chat]
engine = "simulated"
model = "qwen-7b"
gpus = "0,1,2,3"
tensor_parallel = 2
aliases = ["gpt-4o", "fast"]

[pools.embed-2]
engine = "simulated"
model = "bge"
workers = 2
concurrency = 9
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_SETTINGS_FILE")
    monkeypatch.setenv("PENSTOCK_MODEL", "flat")

    def write(text):
        (tmp_path / "penstock.toml").write_text(text)

    return write


def machine(overrides=None, default_model=None):
    overrides = overrides or {}
    return parts_of_machine(UpSettings(**overrides), overrides, default_model)


def test_each_pool_is_its_table_and_what_is_flat_is_shared(file):
    file(TWO)
    chat = worker_settings({"pool": "chat"})
    assert (chat.model, chat.aliases, chat.concurrency) == ("qwen-7b", ("gpt-4o", "fast"), 7)
    assert (chat.redis_url, chat.pool) == ("redis://queue:6379/0", "chat")
    embed = worker_settings({"pool": "embed-2", "model": "other"})
    assert (embed.model, embed.concurrency, embed.gpus) == ("other", 9, None)


def test_without_pools_all_is_as_ever(file, monkeypatch):
    file('model = "x"\ngpus = "1"\n')
    assert worker_settings({}).model == "flat"
    monkeypatch.delenv("PENSTOCK_MODEL")
    assert (worker_settings({}).model, worker_settings({"model": "y"}).pool) == ("x", "default")


def test_a_machine_runs_every_pool(file):
    file(TWO)
    parts = machine(default_model="fast")
    assert [(part.name, part.place) for part in parts] == [
        ("worker-chat-1", "GPU 0,1"),
        ("worker-chat-2", "GPU 2,3"),
        ("worker-embed-2-1", "the CPU"),
        ("worker-embed-2-2", "the CPU"),
    ]
    assert parts[1].flags == ("--workers", "1", "--pool", "chat", "--gpus", "2,3")
    assert parts[3].flags == ("--workers", "1", "--pool", "embed-2", "--name", "embed-2-2")


def test_a_worker_command_runs_one_pool(file):
    file(TWO)
    parts = parts_of_worker({"pool": "chat", "concurrency": 3, "engine_args": ("--a=1", "--b")})
    flags = ("--workers", "1", "--pool", "chat", "--gpus", "0,1")
    assert parts[0].flags == (*flags, "--concurrency=3", "--engine-arg=--a=1", "--engine-arg=--b")
    assert [part.name for part in parts] == ["worker-chat-1", "worker-chat-2"]


def test_workers_on_one_cpu_divide_its_memory(file):
    file("")
    assert parts_of_worker({"gpus": None})[0].flags == ("--workers", "1")
    three = parts_of_worker({"workers": 3, "cpu_memory_share": 0.6, "kv_cache_gib": 2.5})
    shares = ("--kv-cache-gib=2.5", "--cpu-memory-share=0.6", "--cpu-memory-share=0.2000")
    assert [part.flags[-3:] for part in three] == [shares] * 3


def test_the_flat_case(file):
    file("")
    one = {"engine": "simulated"}
    assert [(p.name, p.flags) for p in machine(one)] == [("worker", ("--workers", "1", "--engine=simulated"))]
    two = machine({**one, "workers": 2})
    assert [part.flags[2:4] for part in two] == [("--name", "worker-1"), ("--name", "worker-2")]
    four = machine({**one, "gpus": "0,1,2,3", "tensor_parallel": 2, "metrics_port": 9000})
    assert [part.flags[2:6] for part in four] == [
        ("--gpus", "0,1", "--metrics-port", "9000"),
        ("--gpus", "2,3", "--metrics-port", "9001"),
    ]


def test_the_flat_cases_pool_goes_along(file):
    file("")
    parts = parts_of_worker({"engine": "simulated", "pool": "x", "workers": 2})
    assert parts[1].flags == ("--workers", "1", "--pool", "x", "--name", "worker-2", "--engine=simulated")


def test_what_a_process_is_given_are_options_of_the_command():
    options = {param.name: param.opts for param in worker_command.params}
    assert all(option in options[name] for name, option in OPTIONS.items())
    layout = {"gpus", "workers", "name", "metrics_port", "pool"}
    assert set(options) == set(OPTIONS) | layout


BAD = {
    "[pools.chat": "penstock.toml cannot be read: ",
    "pools = 3": "penstock.toml: pools must be tables",
    "[pools]\nchat = 3": "penstock.toml: [pools] chat: a pool is a table of its own, [pools.chat]",
    '[pools."a b"]': "penstock.toml: [pools.a b]: bad name of a pool; use 1 to 64 characters: letters (a-z, A-Z), digits, ",
    "[pools.chat]\ntensor_paralel = 2": (
        "penstock.toml: [pools.chat] tensor_paralel: there is no such key; did you mean tensor_parallel?"
    ),
    "[pools.chat]\nredis_url = 'x'": (
        "penstock.toml: [pools.chat] redis_url: it cannot be said for one pool; it stands above the tables"
    ),
    "[pools.chat]\nzzzz = 1": "penstock.toml: [pools.chat] zzzz: there is no such key; there are engine, model,",
    "[pools.chat]\ngpus = 0": "penstock.toml: [pools.chat] gpus: Input should be a valid string (it is 0)",
    "[pools.chat]\nworkers = 0": "penstock.toml: [pools.chat] workers: Input should be greater",
    "[pools.chat]\naliases = 3": "penstock.toml: [pools.chat] aliases: Input should be a valid tuple",
    "[pools.chat]\nopenai_endpoints = ['/v1/audio']": (
        "penstock.toml: [pools.chat] openai_endpoints: /v1/audio: not one of /v1/chat/completions, "
    ),
    "model = 'x'\n[pools.chat]\nmodel = 'y'": (
        "penstock.toml: model: it stands beside the pools chat; move it into the table of one"
    ),
    "[pools.a]\nmodel='x'\naliases=['z']\n[pools.b]\nmodel='y'\naliases=['z']": (
        "penstock.toml: [pools.b] aliases: 'z' means 'y' here, and 'x' in [pools.a]"
    ),
    "[pools.a]\nmodel='x'\naliases=['y']\n[pools.b]\nmodel='y'": (
        "penstock.toml: [pools.b] model: 'y' means 'y' here, and 'x' in [pools.a]"
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_named_with_file_table_and_key(file, text):
    file(text)
    with pytest.raises(PoolsStartError) as caught:
        worker_settings({"pool": "chat"})
    assert str(caught.value).startswith(BAD[text])
    with pytest.raises(CommandFailed) as failed:
        starting("up", machine)
    assert failed.value.message == str(caught.value)


def test_the_pool_must_be_said_and_be_there(file):
    file(TWO)
    with pytest.raises(PoolsStartError, match="has the pools chat, embed-2: say which with --pool"):
        worker_settings({})
    with pytest.raises(PoolsStartError, match=r"has no table \[pools.chta\]; it has the pools chat, embed-2"):
        worker_settings({"pool": "chta"})


def test_a_bad_setting_outside_of_the_tables_is_no_tables_fault(file):
    file("[pools.chat]\nmodel = 'x'\n")
    with pytest.raises(pydantic.ValidationError):
        worker_settings({"pool": "chat", "concurrency": 0})


@pytest.mark.parametrize(
    ("overrides", "default_model", "message"),
    [
        ({"model": "x"}, None, "--model is for one model, and penstock.toml has the pools chat, embed-2"),
        ({"workers": 3}, None, "--workers is for one model"),
        ({"gpus": "all"}, None, "--gpus is for one model"),
        ({}, "gpt-5", "no pool of penstock.toml serves 'gpt-5'; there are bge, fast, gpt-4o, qwen-7b"),
    ],
)
def test_what_a_machine_refuses(file, overrides, default_model, message):
    file(TWO)
    with pytest.raises(PoolsStartError, match=message):
        machine(overrides, default_model)


def test_two_pools_do_not_share_a_gpu(file):
    file("[pools.a]\nengine='simulated'\ngpus='0,1'\n[pools.b]\nengine='simulated'\nmodel='y'\ngpus='1'\n")
    with pytest.raises(
        PoolsStartError, match=r"\[pools.b\] gpus: GPU 1 is taken by \[pools.a\]; give both the same"
    ):
        machine()


def test_a_group_that_cannot_be_is_refused_with_its_table(file):
    file("[pools.a]\nengine='simulated'\ngpus='0,1,2'\ntensor_parallel=2\n")
    with pytest.raises(
        DeviceStartError, match=r"^penstock.toml: \[pools.a\] the GPUs 0,1,2 make 1 group of 2"
    ):
        machine()
    with pytest.raises(DeviceStartError, match="the engine openai uses no GPU"):
        parts_of_worker({"pool": "a", "engine": "openai"})


def test_a_group_is_as_large_as_the_flags_say():
    def size(**settings):
        return group_size(WorkerSettings(**settings))

    assert size() == (1, 1)
    assert size(tensor_parallel=2, engine_args=("--tensor-parallel-size=2", "-pp", "3")) == (6, 1)
    assert size(engine_args=("-tp", "4", "--data-parallel-size=2")) == (8, 2)
    assert size(engine_args=("-tp", "many")) == (1, 1)
    with pytest.raises(DeviceStartError, match="tensor_parallel is 2, but engine_args say"):
        size(tensor_parallel=2, engine_args=("-tp=4",))


def test_devices_that_no_driver_tells_can_be_said():
    said = WorkerSettings(engine="openai", device="NVIDIA H100 80GB HBM3", device_memory_gb=160)
    assert str(device_for(said, ())) == "NVIDIA H100 80GB HBM3, 160.0 GB"
    assert device_for(WorkerSettings(engine="openai"), ()).name is None
    assert device_for(WorkerSettings(engine="simulated"), ()).name == "cpu"


def test_every_key_is_a_setting_of_a_worker():
    assert {"model", "engine", "engine_args", "gpus", "workers", "aliases"} <= set(KEYS)
    assert not {"redis_url", "pool", "namespace", "name"} & set(KEYS)


def test_aliases_mean_the_one_model():
    base, adapter = ModelInfo("m"), ModelInfo("lora", card={"parent": "m"})
    assert aliased([base, adapter], ["a", "b", "m"]) == {"a": "m", "b": "m"}
    assert aliased([base, ModelInfo("n")], []) == {}
    with pytest.raises(EngineStartError, match="one model, and this one serves m, n"):
        aliased([base, ModelInfo("n")], ["a"])
    with pytest.raises(EngineStartError, match="'lora' is the name of another model"):
        aliased([base, adapter], ["lora"])
