"""``penstock doctor``: what each fact means, where settings come from, and that no secret is shown."""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pynvml
import pytest

from api.settings import ApiSettings
from broker.checkup import ServerFacts
from broker.db.library import library
from broker.settings import BrokerSettings
from jobs.model import SCHEMA_VERSION
from penstock.cli._findings import Finding, Level, guarded
from penstock.server.doctor import machine
from penstock.server.doctor.examine import examine
from penstock.server.doctor.redis import judged
from penstock.server.doctor.sources import HIDDEN, effective
from penstock.server.profiles import EDGE
from penstock.server.settings import LAYERS, UpSettings
from tests.environment import clean
from tests.unit.penstock.double import error, pool, worker
from tests.unit.penstock.test_cli import run
from workers.devices import nvml

INFO = {
    "valkey_version": "9.1.2",
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "maxmemory_policy": "noeviction",
    "used_memory": 1 << 20,
    "maxmemory": 1 << 30,
    "connected_clients": 5,
    "maxclients": 10_000,
}
FINE = ServerFacts(
    info=INFO,
    config={"appendfsync": "always"},
    user="api",
    open_to_all=False,
    round_trips_s=(0.0002,) * 50,
    clock_ahead_s=0.001,
    libraries=(library().name,),
    schema=SCHEMA_VERSION,
    lacking={},
    dry_run=True,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - clean().keys():
        monkeypatch.delenv(name)
    monkeypatch.delenv("PENSTOCK_SETTINGS_FILE")
    return tmp_path


def bad(facts: ServerFacts) -> dict[str, Finding]:
    findings = judged(facts, BrokerSettings(), embedded=False)
    return {one.name: one for one in findings if one.level in {Level.WARN, Level.FAIL}}


def test_a_server_as_it_should_be_has_nothing_to_be_done() -> None:
    assert bad(FINE) == {}
    older = replace(FINE, info={**INFO, "redis_version": "7.0.15"} | {"valkey_version": "8.1.0"})
    assert bad(older) == {}


@pytest.mark.parametrize(
    ("facts", "name", "level"),
    [
        ({"info": {**INFO, "aof_enabled": 0}}, "persistence", Level.FAIL),
        ({"config": {"appendfsync": "everysec"}}, "persistence", Level.WARN),
        ({"info": {**INFO, "aof_last_write_status": "err"}}, "last write", Level.FAIL),
        ({"info": {**INFO, "maxmemory_policy": "allkeys-lru"}}, "eviction", Level.FAIL),
        ({"info": {**INFO, "used_memory": 900 << 20}}, "memory", Level.WARN),
        ({"info": {**INFO, "used_memory": 1000 << 20}}, "memory", Level.FAIL),
        (
            {"info": {**INFO, "maxmemory": 0, "used_memory": 6 << 30, "total_system_memory": 8 << 30}},
            "memory",
            Level.WARN,
        ),
        ({"info": {**INFO, "connected_clients": 9000}}, "connections", Level.WARN),
        ({"info": {**INFO, "role": "slave"}}, "kind", Level.FAIL),
        ({"info": {**INFO, "redis_mode": "cluster"}}, "kind", Level.FAIL),
        (
            {"info": {"redis_version": "6.2.1", **{k: v for k, v in INFO.items() if "version" not in k}}},
            "version",
            Level.FAIL,
        ),
        ({"round_trips_s": (0.02,) * 50}, "latency", Level.WARN),
        ({"clock_ahead_s": -3.0}, "clock", Level.WARN),
        ({"clock_ahead_s": 60.0}, "clock", Level.FAIL),
        ({"libraries": ("penstock_of_others",)}, "functions", Level.WARN),
        ({"schema": SCHEMA_VERSION + 1}, "data", Level.FAIL),
        ({"open_to_all": True}, "access", Level.WARN),
        ({"lacking": {"worker": ("penstock:new:*",)}}, "rights", Level.FAIL),
    ],
)
def test_what_will_hurt_is_said_with_what_to_do(facts, name, level) -> None:
    found = bad(replace(FINE, **facts))
    assert {key: one.level for key, one in found.items()} == {name: level}
    assert len(found[name].advice) > 20


def test_a_user_who_may_ask_nothing_fails_nothing() -> None:
    nothing = replace(
        FINE, info=None, config=None, open_to_all=None, libraries=None, schema=None, dry_run=False
    )
    assert bad(nothing) == {}


def test_each_setting_says_where_it_comes_from(monkeypatch, tmp_path) -> None:
    (tmp_path / "penstock.toml").write_text(
        '# a comment\nnamespace = "file"\n\nmax_active = 5\nretention_s = 60\n[tenants.a]\nweight = 2\n'
    )
    monkeypatch.setenv("PENSTOCK_NAMESPACE", "env")
    monkeypatch.setenv("MAX_ACTIVE", "7")  # the name that other gateways use
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "penstock_redis_password").write_text("hunter2")
    monkeypatch.setenv("PENSTOCK_SECRETS_DIR", str(secrets))
    found = {one.name: one for one in effective({"port"}, UpSettings(port=9))}
    assert (found["namespace"].value, found["namespace"].source) == ("env", "PENSTOCK_NAMESPACE")
    assert found["namespace"].hides == ("penstock.toml:2",)
    assert (found["max_active"].value, found["max_active"].source) == ("7", "MAX_ACTIVE")
    assert (found["retention_s"].value, found["retention_s"].source) == ("60.0", "penstock.toml:5")
    assert (found["tenants"].value, found["tenants"].source) == ("1 of them", "penstock.toml:6")
    assert (found["port"].value, found["port"].source) == ("9", "command line")
    assert found["redis_password"].value == HIDDEN
    assert found["redis_password"].source == str(secrets / "penstock_redis_password")
    assert found["lease_ttl_s"].is_default
    assert {name for layer in LAYERS[:1] for name in layer.model_fields} == found.keys()


def test_no_secret_is_shown(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "redis://user:hunter2@127.0.0.1:1/0")
    monkeypatch.setenv("PENSTOCK_OPENAI_API_KEY", "hunter2")
    monkeypatch.setenv("PENSTOCK_OPENAI_BASE_URL", "http://me:hunter2@127.0.0.1:1/v1?token=hunter2&v=1")
    monkeypatch.setenv("PENSTOCK_API_KEYS", "alice=hunter2")
    monkeypatch.setenv("PENSTOCK_KEY_PEPPER", "hunter2hunter2hunter2hunter2")
    monkeypatch.setenv("PENSTOCK_FLOWER_BASIC_AUTH", "me:hunter2")
    told = "--api-key=hunter2 --seed=1 --hf-token hunter2 --api_key hunter2 --max-num-batched-tokens 8192 --x http://u:hunter2@h"
    monkeypatch.setenv("PENSTOCK_ENGINE_ARGS", told)
    for form in ("--json", "--text"):
        done = run("http://127.0.0.1:1", "doctor", "--settings", form)
        assert done.returncode == 1
        assert "hunter2" not in done.stdout + done.stderr
        assert "redis://user:***@127.0.0.1:1/0" in done.stdout
    known = {
        one["name"]: one
        for one in json.loads(run("http://127.0.0.1:1", "doctor", "--json").stdout)["settings"]
    }
    hidden = ("openai_api_key", "key_pepper", "flower_basic_auth")
    assert {known[name]["value"] for name in hidden} == {HIDDEN}
    assert known["api_keys"]["value"] == "1 of them"
    assert known["engine_args"]["value"] == (
        "--api-key=*** --seed=1 --hf-token *** --api_key *** --max-num-batched-tokens 8192 --x http://u:***@h"
    )
    assert known["openai_base_url"]["value"] == "http://me:***@127.0.0.1:1/v1?token=***&v=***"


def test_a_machine_without_anything_is_looked_at(tmp_path) -> None:
    findings, settings = examine({"engine": "simulated", "port": 0, "flower": False}, None)
    assert {one.area for one in findings} == {"settings", "machine", "redis", "devices"}
    assert [one for one in findings if one.level is Level.FAIL] == []
    assert len(settings) > 100
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_bad_settings_are_findings(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PENSTOCK_MODLE", "x")
    monkeypatch.setenv("PENSTOCK_LEASE_TTL_S", "-1")
    findings, settings = examine({}, None)
    assert [(one.level, one.name) for one in findings] == [(Level.FAIL, "names"), (Level.FAIL, "values")]
    assert "did you mean PENSTOCK_MODEL?" in findings[0].said
    assert "PENSTOCK_LEASE_TTL_S" in findings[1].said
    assert settings == []


def test_a_file_that_cannot_be_read_is_a_finding(tmp_path) -> None:
    for text in (b"a = [", b"\xff"):
        (tmp_path / "penstock.toml").write_bytes(text)
        findings, settings = examine({}, None)
        assert [(one.level, one.name) for one in findings] == [(Level.FAIL, "names")]
        assert ("penstock.toml cannot be read" in findings[0].said, settings) == (True, [])


def test_what_a_profile_sets_is_said_to_be_its(monkeypatch, tmp_path) -> None:
    for name in ("MALLOC_ARENA_MAX", *(f"PENSTOCK_{name.upper()}" for name in EDGE)):
        monkeypatch.setenv(name, "")  # so that what the profile sets goes again
        monkeypatch.delenv(name)
    (tmp_path / "penstock.toml").write_text('profile = "edge"\nengine = "simulated"\nretention_s = 60\n')
    found = {one.name: one for one in examine({"port": 0}, None)[1]}
    assert (found["concurrency"].value, found["concurrency"].source) == ("8", "profile edge")
    assert (found["retention_s"].value, found["retention_s"].source) == ("60.0", "penstock.toml:3")


def test_a_taken_port_is_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_ANSWER_S", 0.2)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = UpSettings(port=port, flower=False)
        (found,) = machine.ports(settings, None)
        assert (found.level, str(port) in found.said) == (Level.WARN, True)
        assert [one.level for one in machine.ports(settings, "http://127.0.0.1:1")] == [Level.OK]


def test_files_with_secrets_that_others_may_read_are_named(tmp_path) -> None:
    settings = UpSettings()
    settings.data_dir.mkdir()
    pepper = settings.data_dir / "pepper"
    pepper.write_text("x")
    pepper.chmod(0o644)
    toml = tmp_path / "penstock.toml"
    toml.write_text('redis_password = "x"\n')
    toml.chmod(0o640)
    found = list(machine.files(settings, ApiSettings(), toml))
    assert [(one.level, one.name) for one in found] == [(Level.WARN, "pepper"), (Level.WARN, "penstock.toml")]
    for file in (pepper, toml):
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert [one.level for one in machine.files(settings, ApiSettings(), toml)] == [Level.OK]
    toml.write_text('# redis_password = "x"\nmodel = "m"\n')
    toml.chmod(0o644)
    assert [one.level for one in machine.files(settings, ApiSettings(), toml)] == [Level.OK]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("require_keys = true", Level.OK),
        ('model = "org/monkey"\naliases = ["turkey"]', Level.OK),
        ('redis_url = "redis://h/0?protocol=3"', Level.OK),
        ('redis_url = "redis://u:pw@h/0"', Level.WARN),
        ('openai_base_url = "http://h/v1?token=x"', Level.WARN),
        ('[api_keys]\nalice = "x"', Level.WARN),
        ('[pools.a]\nopenai_api_key = "x"', Level.WARN),
        ('[pools.a]\nengine_args = ["--hf-token", "x"]', Level.WARN),
        ('[pools.a]\nengine_args = ["--seed", "1"]', Level.OK),
    ],
)
def test_a_settings_file_with_a_secret_is_told_from_one_without(tmp_path, text, level) -> None:
    settings = UpSettings()
    settings.data_dir.mkdir()
    (settings.data_dir / "pepper").touch(mode=0o600)
    toml = tmp_path / "other.toml"
    toml.write_text(text)
    toml.chmod(0o644)
    assert [one.level for one in machine.files(settings, ApiSettings(), toml)] == [level]


def test_page_cache_is_free_memory_within_a_containers_limit(monkeypatch, tmp_path) -> None:
    (tmp_path / "memory.max").write_text(f"{100 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{90 << 20}\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.free_memory() == 10 << 20
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {40 << 20}\nactive_file 7\n")
    assert machine.free_memory() == 50 << 20


@pytest.mark.parametrize(("engine", "level"), [("vllm", Level.FAIL), ("simulated", Level.OK)])
def test_little_memory_fails_vllm_alone(monkeypatch, tmp_path, engine, level) -> None:
    (tmp_path / "memory.max").write_text("1048576")
    (tmp_path / "memory.current").write_text("0")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    found = {one.name: one.level for one in machine.machine(UpSettings(engine=engine), ApiSettings())}
    assert found["memory"] is level


def test_a_limit_of_open_files_below_the_connections_is_a_warning() -> None:
    found = {one.name: one for one in machine.machine(UpSettings(), ApiSettings(max_connections=1_000_000))}
    limit = found["open files"]
    assert limit.level is Level.WARN or "unlimited" in limit.said


class Card:
    """The driver's library, of a machine with one GPU that somebody uses."""

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded
    NVMLError_NoPermission = pynvml.NVMLError_NoPermission

    def __getattr__(self, name: str):
        said = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": 0,
            "nvmlDeviceGetName": "NVIDIA L4",
            "nvmlDeviceGetUUID": "GPU-1",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=20 << 30, total=24 << 30),
            "nvmlSystemGetDriverVersion": "570.1",
            "nvmlSystemGetCudaDriverVersion_v2": 12080,
        }[name]
        return lambda *_: said


def test_a_gpu_that_others_use_and_a_model_that_does_not_fit(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(nvml, "pynvml", Card())
    monkeypatch.setattr("workers.devices.layout.vllm_runs_on_cpu", lambda: False)
    model = tmp_path / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(100 << 30)  # a hole: no byte of it is on the disk
    (model / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    findings, _ = examine({"model": str(model), "port": 0, "flower": False}, None)
    found = {one.name: one for one in findings if one.area == "devices"}
    assert found["driver"].said == "NVIDIA 570.1, for CUDA up to 12.8"
    assert (found["GPU 0"].level, "21.5 of 25.8 GB" in found["GPU 0"].said) == (Level.WARN, True)
    assert (found["models"].level, "does not fit" in found["models"].said) == (Level.FAIL, True)


def test_a_look_that_breaks_leaves_the_others_their_say() -> None:
    def broken():
        yield Finding(Level.OK, "a", "b", "c")
        raise RuntimeError("oh")

    assert [one.level for one in guarded("a", broken)] == [Level.OK, Level.SKIPPED]


def looked_at(server, *args: str) -> dict[str, Finding]:
    done = run(server, "doctor", "--json", *args)
    assert done.returncode in {0, 1}, done.stderr
    found = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "server"]
    return {one["name"]: Finding(**one | {"level": Level(one["level"])}) for one in found}


def test_a_running_server_is_judged(server, monkeypatch) -> None:
    monkeypatch.setenv("PENSTOCK_ENGINE", "simulated")
    worker_ = {"engine_priority": "ignored", "shares_storage": False, "kv_cache_usage": 0.99}
    server.workers = [worker(**worker_)]
    server.pools = [pool(paused=True), pool(pool="other", slots=0)]
    found = looked_at(server)
    assert found["health"].level == found["workers"].level == Level.OK
    assert found["pool default"].said == "it is paused"
    assert found["pool other"].said == "1234 jobs wait, and no worker serves it"
    assert found["cpu@host"].level is Level.WARN
    server.workers = []
    assert looked_at(server)["workers"].level is Level.WARN


def test_a_server_that_refuses_is_no_fault_of_its_own(server, monkeypatch) -> None:
    monkeypatch.setenv("PENSTOCK_ENGINE", "simulated")
    server.faults_of = {
        "/v1/workers": (401, {}, error("missing_key")),
        "/v1/queues": (403, {}, error("no_scope")),
        "/": (200, {}, {"version": "0.9.0"}),
    }
    found = looked_at(server)
    assert (found["workers"].level, found["queues"].level) == (Level.SKIPPED, Level.SKIPPED)
    assert (found["version"].level, found["clock"].level) == (Level.WARN, Level.OK)
    server.faults_of["/health/ready"] = (
        503,
        {},
        {"status": "not_ready", "checks": {"worker": "none is alive"}, "missing": ["worker"]},
    )
    assert looked_at(server)["health worker"].level is Level.FAIL
    server.faults_of["/health/ready"] = (200, {}, "<html>")
    assert "Penstock server" in looked_at(server)["reachable"].advice


def test_a_model_that_penstock_up_has_loaded_here_is_not_held_against_the_free_memory(tmp_path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(1 << 42)  # a hole: more than any memory
    overrides = {"model": str(model), "port": 0, "flower": False}
    for here, level in ((None, Level.FAIL), ("http://127.0.0.1:1", Level.OK)):
        found = [one for one in examine(overrides, here)[0] if one.name.startswith("model of")]
        assert [one.level for one in found] == [level], found
