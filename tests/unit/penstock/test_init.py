"""``penstock init``: what it writes is read by the real settings, on machines of several kinds."""

from __future__ import annotations

import os
import re
import tomllib

import pytest

from penstock.server.fleet import parts_of_machine
from penstock.server.init.choice import MODELS, Place, known_size, places, suggested
from penstock.server.init.text import SECTIONS, written
from penstock.server.names import check_names
from penstock.server.settings import UpSettings
from tests.environment import clean
from tests.unit.penstock.test_cli import run
from workers.devices.nvml import Gpu

GB = 10**9
L4, H100, H200 = ("L4", 24 * GB), ("H100", 85 * GB), ("H200", 150 * GB)
TWO = (("chat", "org/chat"), ("embed", "org/embed"))


def gpus(count: int, kind: tuple[str, int]) -> list[Gpu]:
    name, memory = kind
    return [Gpu(index, name, memory) for index in range(count)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in os.environ.keys() - clean().keys():
        monkeypatch.delenv(name)
    monkeypatch.delenv("PENSTOCK_SETTINGS_FILE")
    return tmp_path


@pytest.mark.parametrize(
    ("devices", "memory", "model", "group"),
    [
        ([], 2 * GB, None, 1),
        ([], 9 * GB, "Qwen/Qwen2.5-1.5B-Instruct", 1),
        ([], 500 * GB, "Qwen/Qwen2.5-1.5B-Instruct", 1),  # a CPU is slow, however much memory it has
        (gpus(1, L4), 0, "Qwen/Qwen2.5-7B-Instruct", 1),
        (gpus(4, L4), 0, "Qwen/Qwen2.5-14B-Instruct", 2),
        (gpus(3, L4), 0, "Qwen/Qwen2.5-7B-Instruct", 1),  # two of three do not come out even
        (gpus(8, H100), 0, "Qwen/Qwen2.5-14B-Instruct", 1),  # a copy on each serves more calls
        (gpus(1, H200), 0, "Qwen/Qwen2.5-32B-Instruct", 1),
        ([*gpus(1, L4), Gpu(1, "small", 8 * GB)], 0, "Qwen/Qwen2.5-1.5B-Instruct", 1),
    ],
)
def test_the_model_suits_the_machine(devices, memory, model, group) -> None:
    assert suggested(devices, memory) == (model, group)
    if model is not None and devices:
        assert dict(MODELS)[model] * GB < 0.9 * group * min(gpu.memory_bytes for gpu in devices)


def test_pools_share_the_gpus() -> None:
    assert places(TWO, []) == [Place("chat", "org/chat"), Place("embed", "org/embed")]
    assert [one.gpus for one in places(TWO, gpus(3, L4))] == ["0,1", "2"]
    shared = places(TWO, gpus(1, L4))
    assert [(one.gpus, one.shared) for one in shared] == [("0", True), ("0", True)]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("known", [{}, {"org/big": 145.4, "org/small": 3.0}])
def test_a_group_is_a_power_of_two(count, known) -> None:
    many = [(f"p{n}", "org/small") for n in range(count)] + [("big", "org/big")]
    for pools in (many, many[-2:], many[-1:]):
        for one in places(pools, gpus(count, L4), known):
            assert one.group in {1, 2, 4, 8}
            assert one.gpus is not None
            assert len(one.gpus.split(",")) % one.group == 0
            assert one.group == 1 or known
            assert "not known" in one.remark or known


def test_the_group_follows_the_size_of_the_weights() -> None:
    def group(model: str, size: float | None, count: int) -> tuple[str | None, int, str]:
        (one,) = places([("", model)], gpus(count, L4), {} if size is None else {model: size})
        return one.gpus, one.group, one.remark

    assert group("m", 15.3, 4) == ("0,1,2,3", 1, "")
    assert group("m", 29.6, 3) == ("0,1", 2, "")
    assert group("m", 60.0, 4) == ("0,1,2,3", 4, "")
    gpus_, size, said = group("m", 145.4, 4)
    assert (gpus_, size, "more than these 96 GB" in said) == ("0,1,2,3", 4, True)
    assert known_size("/models/Qwen2.5-72B-Instruct/") == known_size("Qwen/Qwen2.5-72B-Instruct") == 145.4
    assert known_size("org/other") is None
    text = written("a test", {}, places([("", "org/other")], gpus(2, L4)))
    assert "set tensor_parallel to 2, 4 or 8" in text


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--model", "org/one", "--host", "0.0.0.0", "--port", "8181"),
        ("--engine", "simulated"),
        ("--engine", "openai", "--openai-base-url", "http://127.0.0.1:8000/v1"),
        ("--pool", "chat=org/chat", "--pool", "embed=org/embed", "--redis-url", "redis://queue:6379/0"),
    ],
)
def test_what_it_writes_is_read_by_the_real_settings(args, tmp_path) -> None:
    done = run("http://127.0.0.1:1", "init", *args)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    check_names()
    file = (tmp_path / "penstock.toml").read_text()
    settings = UpSettings()
    given = dict(zip(args[::2], args[1::2], strict=True))
    assert settings.host == given.get("--host", "127.0.0.1")
    assert settings.port == int(given.get("--port", 8080))
    assert settings.engine == given.get("--engine", "vllm")
    if "--model" in given:
        assert settings.model == "org/one"
    if "--pool" in given:
        parts = parts_of_machine(settings, {}, None)
        assert {part.settings.pool: part.settings.model for part in parts} == dict(TWO)
        assert settings.redis_url == "redis://queue:6379/0"
    assert len(re.findall(r"^# \w+ = ", file, re.MULTILINE)) > 15


@pytest.mark.parametrize("devices", [[], gpus(1, L4), gpus(2, L4)])
@pytest.mark.parametrize("pools", [(), TWO])
def test_each_line_that_it_comments_out_is_a_setting_that_works(devices, pools, tmp_path) -> None:
    found = places(pools, devices) if pools else [Place("", "org/one", "0" if devices else None)]
    text = written("a test", {"port": 8181}, found)
    loud = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    loud = re.sub(r'^(tls_cert_file|tls_key_file) = "', rf'\1 = "{tmp_path}/', loud, flags=re.MULTILINE)
    (tmp_path / "penstock.toml").write_text(loud)
    table = tomllib.loads(loud)
    own = {"engine_args", "aliases"} if pools else set()
    assert {name for _, names in SECTIONS for name in names} - own <= table.keys()
    check_names()
    settings = UpSettings()
    assert (settings.port, settings.max_active, settings.concurrency) == (8181, 64, 64)


def test_a_file_that_is_there_stays_unless_it_is_forced(tmp_path) -> None:
    file = tmp_path / "penstock.toml"
    file.write_text('namespace = "mine"\n')
    done = run("http://127.0.0.1:1", "init")
    assert (done.returncode, "--force replaces it" in done.stderr) == (1, True)
    assert file.read_text() == 'namespace = "mine"\n'
    shown = run("http://127.0.0.1:1", "init", "--print", "--model", "org/one")
    assert (shown.returncode, 'model = "org/one"' in shown.stdout) == (0, True)
    assert file.read_text() == 'namespace = "mine"\n'
    file.write_text("broken = [")
    assert run("http://127.0.0.1:1", "init", "--force", "--redis-url", "redis://u:pw@h/0").returncode == 0
    check_names()
    assert file.stat().st_mode & 0o777 == 0o600  # it has a password
    assert [one.name for one in tmp_path.iterdir()] == ["penstock.toml"]


def test_wrong_usage_writes_nothing(tmp_path) -> None:
    wrong = ["--pool chat", "--pool a=", "--pool a.b=m", "--pool a=x --pool a=y", "--model m --pool a=x"]
    for args in wrong:
        assert run("http://127.0.0.1:1", "init", *args.split()).returncode == 2, args
    assert list(tmp_path.iterdir()) == []
