"""Completion: what it offers, when it asks the server, and that shells take the script."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from typing import Any

import pytest
from click.shell_completion import BashComplete

from penstock.cli import _names
from penstock.cli.main import cli
from tests.unit.penstock.double import error, pool, worker
from tests.unit.penstock.test_cli import ENV, ROOT, run


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_names, "_ANSWER_S", 20.0)  # a busy machine may answer late
    return tmp_path / "cache" / "penstock" / "names"


def offered(*words: str) -> list[str]:
    """What the shell would offer for the last word."""
    shell = BashComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_commands_options_and_states_are_offered():
    assert offered("") == cli.list_commands(None)
    assert offered("jobs", "") == ["cancel", "get", "list", "move", "retry", "stream", "wait"]
    assert offered("jobs", "list", "--de") == ["--dead"]
    assert offered("jobs", "list", "--state", "s") == ["succeeded"]
    assert offered("jobs", "move", "--priority", "") == ["high", "normal", "low", "bulk"]
    assert offered("li") == []  # an old name


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("submit", "--model"), ["m", "n"]),
        (("jobs", "list", "--model"), ["m", "n"]),
        (("jobs", "retry", "--dead", "--model"), ["m", "n"]),
        (("batch", "run", "f", "--model"), ["m", "n"]),
        (("models", "alias", "gpt"), ["m", "n"]),
        (("queue", "pause"), ["default"]),
        (("rollout", "start"), ["default"]),
        (("rollout", "switch", "chat", "--to"), ["default"]),
        (("adapters", "list", "--pool"), ["default"]),
        (("worker", "drain"), ["cpu@host"]),
    ],
    ids=" ".join,
)
def test_names_that_the_server_knows_are_offered_and_asked_for_once(server, words, names):
    server.models, server.pools, server.workers = ["n", "m"], [pool()], [worker(), worker(id="x")]
    assert offered("--url", server.url, *words, "") == names
    assert offered("--url", server.url, *words, names[0]) == names[:1]
    assert offered(*words, "--url", server.url, "nothing like it") == []
    assert len(server.seen) == 1


def test_the_key_of_the_options_is_sent_and_its_names_are_its_own(server):
    assert offered("--url", server.url, "--api-key", "psk_1", "submit", "--model", "") == ["m"]
    server.models = ["other"]
    assert offered("--url", server.url, "submit", "--api-key", "psk_2", "--model", "") == ["other"]
    assert offered("--url", server.url, "submit", "--model", "") == ["other"]
    assert [seen.headers.get("authorization") for seen in server.seen] == [
        "Bearer psk_1",
        "Bearer psk_2",
        None,
    ]


def test_a_server_that_refuses_or_talks_nonsense_offers_nothing(server, caches):
    answers: list[tuple[int, Any]] = [(401, error("invalid_api_key")), (200, "no JSON"), (200, {"data": 7})]
    for status, body in answers:
        server.faults.append((status, {}, body))
        assert offered("--url", server.url, "submit", "--model", "") == []
        shutil.rmtree(caches)
    server.faults.append((302, {"location": f"{server.url}/v1/models"}, ""))
    assert offered("--url", server.url, "--api-key", "psk_1", "submit", "--model", "") == []
    assert len(server.seen) == 4  # a redirect is not followed: it would have the key


def test_a_server_that_does_not_answer_at_once_is_not_waited_for_and_left_alone_for_a_minute(monkeypatch):
    monkeypatch.setattr(_names, "_ANSWER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert offered("--url", url, "submit", "--model", "") == []
        connection, _ = silent.accept()
        connection.close()
        silent.setblocking(False)
        assert offered("--url", url, "submit", "--model", "") == []
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert offered("--url", "http://127.0.0.1:9", "queue", "pause", "") == []
    assert offered("--url", "no address", "queue", "pause", "") == []


def test_without_a_place_to_keep_names_they_are_offered_all_the_same(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert offered("--url", server.url, "submit", "--model", "") == ["m"]


def test_servers_are_offered_by_name(tmp_path, monkeypatch):
    file = tmp_path / "servers.toml"
    monkeypatch.setenv("PENSTOCK_SERVERS_FILE", str(file))
    file.write_text("[servers.edge]\nurl = 'https://e'\n[servers.lab]\nurl = 'https://l'\n")
    assert offered("--server", "") == ["edge", "lab"]
    assert offered("jobs", "list", "--server", "l") == ["lab"]
    assert offered("servers", "use", "e") == ["edge"]
    assert offered("--server", "gone", "submit", "--model", "") == []
    file.write_text("nonsense")
    assert offered("--server", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(shell, monkeypatch):
    done = run("http://127.0.0.1:9", "completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_PENSTOCK_COMPLETE={shell}_complete" in done.stdout
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    assert run("http://127.0.0.1:9", "completion").stdout == done.stdout


def test_a_shell_that_is_not_known_is_asked_for(monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/ksh")
    done = run("http://127.0.0.1:9", "completion")
    assert (done.returncode, "name the shell: bash, zsh, fish" in done.stderr) == (2, True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_it_is_installed_once_behind_what_the_shells_file_had(home, shell):
    start = home / f".{shell}rc"
    start.write_bytes(b"alias ll='ls \xe9'")  # in Latin-1, and without an end of line
    for _ in range(2):
        done = run("http://127.0.0.1:9", "completion", shell, "--install")
        assert (done.returncode, str(start) in done.stderr) == (0, True)
    script = home / ".local" / "share" / "penstock" / f"completion.{shell}"
    before, line = start.read_bytes().splitlines()
    assert (before, line.count(str(script).encode())) == (b"alias ll='ls \xe9'", 2)


def test_fish_needs_no_line_and_what_cannot_be_written_is_said(home):
    assert run("http://127.0.0.1:9", "completion", "fish", "--install").returncode == 0
    assert (home / ".config" / "fish" / "completions" / "penstock.fish").exists()
    (home / ".bashrc").mkdir()
    done = run("http://127.0.0.1:9", "completion", "bash", "--install")
    assert (done.returncode, done.stderr.startswith("penstock: cannot write: ")) == (2, True)


PRESS_TAB = {
    "bash": """. ~/.bashrc
COMP_WORDS=(penstock jobs st) COMP_CWORD=2
_penstock_completion penstock
printf '%s\\n' "${COMPREPLY[@]}" """,
    "fish": ". ~/.config/fish/completions/penstock.fish; complete -C 'penstock jobs st'",
}


@pytest.mark.parametrize("shell", ["bash", pytest.param("fish", marks=pytest.mark.full)])
def test_a_shell_completes_by_what_was_installed(home, shell):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    (home / "bin").mkdir()
    ours = home / "bin" / "penstock"
    ours.write_text(f'#!/bin/sh\nexec {sys.executable} -m penstock "$@"\n')
    ours.chmod(0o755)
    assert run("http://127.0.0.1:9", "completion", shell, "--install").returncode == 0
    env = ENV | {"HOME": str(home), "PATH": f"{ours.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [program, "-c", PRESS_TAB[shell]], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split()[:1], done.stdout.count("\n"), done.stderr) == (["stream"], 1, "")
