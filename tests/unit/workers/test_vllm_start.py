"""Before and after a start of vLLM: the memory for the KV cache, the hub, and the one message of a start that failed."""

from __future__ import annotations

import json
import logging
import logging.config
import os
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.loopback import LoopbackServer
from tests.support import free_port
from workers.engines.base import EngineStartError
from workers.engines.vllm import wire
from workers.engines.vllm.cpu_memory import SMALLEST, WORK_SPACE, kv_cache_bytes
from workers.engines.vllm.hub import check_reachable
from workers.engines.vllm.probes import AbilityError
from workers.engines.vllm.start_errors import explain
from workers.engines.vllm.start_hints import check_format

GIB = 1 << 30
POINTER = (
    "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': %d}. This may "
    "be caused by insufficient memory."
)


@pytest.mark.parametrize(
    ("free", "weights", "kw", "size"),
    [
        (16 * GIB, 2 * GIB, {"ranks": 1}, 6 * GIB),
        (16 * GIB, 4 * GIB, {"ranks": 2}, 2 * GIB),
        (16 * GIB, 0, {"ranks": 1}, 7 * GIB),  # of a model that is not downloaded yet
        (3 * GIB, 2 * GIB, {"ranks": 1}, SMALLEST),
        (8 * GIB, 2 * GIB, {"ranks": 1, "cached": 2 * GIB}, 2 * GIB),
        (8 * GIB, 5 * GIB // 2, {"ranks": 1, "cached": 5 * GIB // 2}, GIB),
    ],
)
def test_the_kv_cache_is_half_of_what_is_left(free, weights, kw, size):
    chosen = kv_cache_bytes(free, weights, **kw)
    assert chosen == size
    left = free - weights - kw.get("cached", 0) - kw["ranks"] * WORK_SPACE
    assert kw["ranks"] * chosen <= max(left, kw["ranks"] * SMALLEST)


@pytest.fixture
def log(monkeypatch):
    """vLLM's log, set up as vLLM does it: from the file that the environment names."""
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "")
    monkeypatch.delenv("VLLM_LOGGING_CONFIG_PATH")
    wire.use_our_log_form("WARNING", as_json=False)
    logging.config.dictConfig(json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text()))
    yield logging.getLogger("vllm.engine")
    logging.getLogger("vllm").handlers.clear()


def logged(log, *errors):
    for error in errors:
        try:
            raise error
        except Exception:
            log.exception("it failed")
    return wire.logged_errors()


def test_the_engines_own_error_comes_first_and_then_a_hint_that_fits(log):
    full = ValueError("Available memory on node 0 (14.0/16.3 GiB) on startup is less\n than desired")
    errors = logged(log, full, RuntimeError("WorkerProc initialization failed: see stack trace"))
    text, hint = explain(RuntimeError(POINTER % 1), errors).splitlines()
    assert text == (
        "vLLM did not start: ValueError: Available memory on node 0 (14.0/16.3 GiB) on startup is less than desired"
    )
    assert hint.startswith("  Less memory: a smaller KV cache (--kv-cache-gib")


def test_an_error_that_is_not_of_memory_gets_no_hint_of_memory(log):
    errors = logged(log, KeyError("model.layers.3.weight"))
    said = explain(RuntimeError(POINTER % 1), errors)
    assert said == "vLLM did not start: KeyError: 'model.layers.3.weight'"
    assert explain(ValueError("no such dtype"), errors) == "vLLM did not start: no such dtype"


def test_a_killed_engine_process_logs_nothing(log):
    said = explain(RuntimeError(POINTER % -9), wire.logged_errors())
    assert said.startswith("vLLM did not start: Engine core initialization failed.")
    assert "was killed (SIGKILL)" in said


def test_each_start_forgets_the_errors_of_the_one_before(log):
    assert len(logged(log, ValueError("one"))) == 1
    wire.use_our_log_form("WARNING", as_json=False)
    assert wire.logged_errors() == []
    log.error("without an exception")
    log.warning("no error")
    assert wire.logged_errors() == ["without an exception"]


def test_errors_take_little_room(log):
    for _ in range(200):
        log.error("x" * 1000)
    assert 60 < len(wire.logged_errors()) < 70


def test_a_log_form_of_the_users_own_stays(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "/etc/mine.json")
    wire.use_our_log_form("WARNING", as_json=False)
    assert (os.environ["VLLM_LOGGING_CONFIG_PATH"], wire.logged_errors()) == ("/etc/mine.json", [])


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Sets where the hub is, for a machine whose cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda url: monkeypatch.setattr(constants, "ENDPOINT", url)


def test_a_hub_name_without_its_hub_is_one_clear_sentence(hub):
    port = free_port()
    hub(f"http://127.0.0.1:{port}")
    with pytest.raises(EngineStartError) as error:
        check_reachable("Qwen/Qwen3-0.6B")
    assert str(error.value).startswith(
        "model Qwen/Qwen3-0.6B is neither a folder here nor in the Hugging Face cache, and the hub "
        f"http://127.0.0.1:{port} cannot be reached: name a folder"
    )
    assert str(error.value).count("\n") == 0


def test_what_is_here_needs_no_hub(hub, tmp_path):
    hub("http://127.0.0.1:9")
    (tmp_path / "m").mkdir()
    check_reachable(str(tmp_path / "m"))
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("1")
    check_reachable("a/b")


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_a_hub_that_answers_is_left_to_vllm(hub, status):
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_):
            return

    with LoopbackServer(Hub, "hub") as server:
        hub(server.url)
        check_reachable("a/b")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "1 validation error for VllmConfig Value error, torch.float32 is not supported for quantization method awq.",
            "a checkpoint quantised with awq does not run in float32: set --engine-arg=--dtype=bfloat16",
        ),
        ("GPTQ group activation ordering (desc_act=True) is no longer supported.", "Take one without"),
        ("Marlin does not support weight_bits = uint8b128.", "no code for the checkpoint's quantisation"),
        ("Failed to find a kernel that can implement the WNA16 linear layer. Reasons: ...", "(WNA16)"),
        ("_C::static_scaled_fp8_quant() expected at most 0 argument(s)", "(static_scaled_fp8_quant)"),
    ],
)
def test_what_a_quantised_checkpoint_lacks_is_a_sentence(said, sentence):
    told = explain(RuntimeError(said), [])
    assert sentence in told
    assert f"vLLM says: {said}" in told


def test_a_death_at_the_first_request_is_told_by_its_cause():
    logged = [
        "NotImplementedError: \"cpu_gemm_wna16\" not implemented for 'Float'",
        "AsyncLLM output_handler failed.",
    ]
    told = explain(RuntimeError("vLLM's engine process is dead"), logged)
    assert "weights of 4 bits does not run in float32 on a CPU" in told
    assert "cpu_gemm_wna16" in told


def test_a_death_of_one_ability_names_it():
    error = AbilityError(
        "the model loads, but the engine dies of a request for images (/v1/chat/completions)"
    )
    told = explain(error, ["RuntimeError: no such kernel", "AsyncLLM output_handler failed."])
    assert "dies of a request for images" in told
    assert told.endswith("vLLM says: RuntimeError: no such kernel")
    assert explain(error, []) == f"vLLM did not start: {error}"


def test_heads_that_the_cpu_build_lacks_are_a_sentence():
    told = explain(RuntimeError("Unsupported CPU attention configuration: head_dim=16 isa=2"), [])
    assert "no attention on a CPU for heads of size 16. Take a model whose heads have 32" in told


@pytest.mark.parametrize("name", ["org/Model-8B-GGUF", "./model.Q4_K_M.gguf"])
def test_gguf_is_refused_with_what_to_do(name):
    with pytest.raises(EngineStartError, match=r"GGUF, which this vLLM does not read.*llama\.cpp"):
        check_format(name)


def test_a_folder_of_gguf_files_is_refused(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(EngineStartError, match="GGUF"):
        check_format(str(tmp_path))
    (tmp_path / "config.json").touch()
    check_format(str(tmp_path))
