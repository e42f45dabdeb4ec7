"""A command finds the ``penstock up`` of its folder, and believes nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from penstock.cli._local import running_here
from penstock.server import address
from penstock.server.address import announced
from tests.unit.penstock.test_cli import ENV

URL = "http://127.0.0.1:8181"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def address_file(folder):
    return folder / ".penstock" / "up.json"


def test_the_address_is_there_while_it_runs(folder, address_file):
    assert running_here() is None
    with announced(folder / ".penstock", URL):
        assert running_here() == URL
    assert running_here() is None
    assert not address_file.exists()


def test_another_data_directory_is_found_by_its_variable(folder, monkeypatch):
    with announced(folder / "elsewhere", URL):
        assert running_here() is None
        monkeypatch.setenv("PENSTOCK_DATA_DIR", "elsewhere")
        assert running_here() == URL


def test_a_file_that_nobody_holds_is_not_believed(address_file):
    address_file.parent.mkdir()
    address_file.write_text(json.dumps({"url": URL, "pid": os.getpid()}))
    assert running_here() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": 7}', "\xff"])
def test_what_is_no_address_is_ignored(folder, address_file, text):
    with announced(folder / ".penstock", URL):
        address_file.write_text(text, "latin-1")
        assert running_here() is None


def test_another_users_file_is_not_believed(folder, address_file, monkeypatch):
    with announced(folder / ".penstock", URL):
        monkeypatch.setattr(os, "geteuid", lambda: address_file.stat().st_uid + 1)
        assert running_here() is None


def test_the_address_of_a_killed_process_is_not_believed(folder, address_file):
    code = (
        "import time, sys\nfrom pathlib import Path\nfrom penstock.server.address import announced\n"
        f"with announced(Path('.penstock'), {URL!r}):\n    print('on', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env=ENV, cwd=folder, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        assert running_here() == URL
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert address_file.exists()
    assert running_here() is None
    with announced(folder / ".penstock", "http://127.0.0.1:8282"):  # and the next one takes its place
        assert running_here() == "http://127.0.0.1:8282"


def test_a_second_one_of_the_same_folder_leaves_the_first_ones_address(folder, monkeypatch):
    monkeypatch.setattr(address, "_LOCK_WAIT_S", 0.1)
    with announced(folder / ".penstock", URL):
        with announced(folder / ".penstock", "http://127.0.0.1:8282"):
            assert running_here() == URL
        assert running_here() == URL


def test_commands_ask_it_unless_another_is_named(server, folder):
    def health(*args: str) -> int:
        argv = [sys.executable, "-m", "penstock", *args, "status", "--health"]
        done = subprocess.run(argv, env=ENV, cwd=folder, capture_output=True, check=False)
        return done.returncode

    with announced(folder / ".penstock", server.url):
        assert health() == 0
        assert [seen.path for seen in server.seen] == ["/health/ready"]
        assert health("--url", "http://127.0.0.1:9") == 3
