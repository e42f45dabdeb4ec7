"""Servers by name: their file, who may read it, which of them a command talks to, and which key goes where."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from penstock.cli import _servers
from penstock.cli._servers import Server, Servers
from penstock.cli._target import Target, target
from penstock.cli.main import cli as program
from penstock.server.address import announced
from tests.unit.penstock.test_cli import lines, run

HERE = "http://127.0.0.1:8181"
AT = "http://127.0.0.1:9"
FAR = "https://edge.example"


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_SERVERS_FILE", raising=False)
    monkeypatch.delenv("PENSTOCK_SERVER", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "penstock" / "servers.toml"


def known(default: str | None = None, **keys: str) -> None:
    """Write a file with two servers."""
    _servers.write(Servers({"edge": Server(FAR, **keys), "lab": Server("https://lab.example")}, default))


def test_what_is_written_is_read_again_and_is_the_users_alone(file, tmp_path):
    odd = Server(FAR, api_key='psk_"\\\x7f\u00e9\U0001f600', ca_file="/etc/ca file.pem")
    servers = Servers({"a.b": odd, "c-d": Server("http://c", api_key_env="KEY")}, "a.b")
    _servers.write(servers)
    assert _servers.read() == servers
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["servers.toml"]
    assert "psk_" not in repr(odd)


def test_a_link_to_the_file_stays_a_link(file, tmp_path):
    known()
    real = tmp_path / "dotfiles.toml"
    file.rename(real)
    file.symlink_to(real)
    known("edge")
    assert (file.is_symlink(), _servers.read().default) == (True, "edge")


def test_a_file_with_a_key_that_others_may_read_is_refused(file):
    known(api_key="psk_1")
    file.chmod(0o640)
    with pytest.raises(click.UsageError, match="other users may read it: chmod 600"):
        _servers.read()
    known(api_key_env="KEY")
    file.chmod(0o644)
    assert _servers.read().by_name["edge"].api_key_env == "KEY"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("servers = ", "cannot be read"),
        ("\xff", "cannot be read"),
        ("server = 'x'", "server: there is no such key"),
        ("servers = 'x'", "write a table"),
        ("[servers]\nedge = 'https://x'", "write a table"),
        ("[servers.edge]\nurl = 'https://x'\nkey = 'k'", r"\[servers.edge\] key: there is no such key"),
        ("[servers.edge]\napi_key = 'k'", "needs a url"),
        ("[servers.edge]\nurl = 7", "needs a url"),
        ("[servers.edge]\nurl = 'https://x'\napi_key = 'k'\napi_key_env = 'K'", "more than one of"),
        ("default = ['edge']\n[servers.edge]\nurl = 'https://x'", "default names"),
        ("default = 'gone'\n[servers.edge]\nurl = 'https://x'", r"no \[servers.gone\]"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_what_is_wrong(file, text, said):
    file.parent.mkdir(parents=True)
    file.write_text(text, "latin-1")
    with pytest.raises(click.UsageError, match=f"servers.toml.*{said}"):
        _servers.read()


def test_the_options_come_before_the_environment_before_the_file_before_this_folder(tmp_path, monkeypatch):
    assert target(None, None, None) == Target()
    with announced(tmp_path / ".penstock", HERE):
        assert target(None, None, None) == Target(HERE)
        known("edge")
        assert target(None, None, None) == Target(FAR, named=True)
        monkeypatch.setenv("PENSTOCK_URL", AT)
        assert target(None, None, None) == Target(AT, named=True)
        assert target(None, "lab", None) == Target("https://lab.example", "", named=True)
        assert target("http://x", None, None) == Target("http://x", named=True)
        monkeypatch.delenv("PENSTOCK_URL")
        monkeypatch.setenv("PENSTOCK_SERVER", "lab")
        assert target(None, None, None) == Target("https://lab.example", named=True)
        assert target("http://x", None, None) == Target("http://x", named=True)


@pytest.mark.parametrize("variables", [{"PENSTOCK_URL": AT, "PENSTOCK_SERVER": "edge"}, {}])
def test_two_names_for_a_server_at_once_are_refused(monkeypatch, variables):
    known()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(click.UsageError, match="each name a server"):
        target(*((None, None) if variables else (AT, "edge")), None)


def test_a_key_of_the_file_goes_to_its_server_alone(tmp_path, monkeypatch):
    secret = tmp_path / "key"
    secret.write_text("psk_file\n")
    known("edge", api_key_file=str(secret))
    assert target(None, None, None).api_key == "psk_file"
    assert target(None, None, "psk_given").api_key == "psk_given"
    assert target("https://lab.example", None, None).api_key is None
    assert target(None, "lab", None).api_key == ""
    monkeypatch.setenv("PENSTOCK_API_KEY", "psk_env")
    assert target(None, None, None).api_key is None  # the SDK takes the variable
    assert target(None, "edge", None).api_key == "psk_file"
    assert target(None, "lab", None).api_key == ""  # the variable is another server's
    known("edge", api_key_env="EDGE_KEY")
    with pytest.raises(click.UsageError, match="EDGE_KEY, which is not set"):
        target(None, "edge", None)
    monkeypatch.setenv("EDGE_KEY", "psk_edge")
    assert target(None, "edge", None).api_key == "psk_edge"
    assert target(None, "edge", None, at=FAR).api_key == "psk_edge"
    assert target(None, "edge", None, at="http://x") == Target("http://x", named=True)
    monkeypatch.delenv("EDGE_KEY")
    assert target(None, None, None, at="http://x").api_key is None  # nobody asked for the key
    secret.write_text(" \n")
    known("edge", api_key_file=str(secret))
    with pytest.raises(click.UsageError, match="which is empty"):
        target(None, "edge", None)
    secret.unlink()
    with pytest.raises(click.UsageError, match="the server's key cannot be read"):
        target(None, "edge", None)


def cli(*words: str, stdin: bytes = b""):
    """Run a command without naming a server."""
    done = run("http://127.0.0.1:9", *words, stdin=stdin)
    assert "psk_" not in done.stdout + done.stderr
    return done


def test_servers_are_added_used_listed_and_removed(server, file, monkeypatch, capsys):
    assert cli("servers", "list", "--text").stderr == "there are no servers; penstock servers add makes one\n"
    assert cli("servers", "add", "here", server.url, "--ask-api-key", stdin=b"psk_1\n").returncode == 0
    Path("ca.pem").write_text("")
    Path("key").write_text("psk_2")
    done = cli("servers", "add", "edge", FAR, "--api-key-file", "key", "--ca-file", "ca.pem", "--use")
    assert (done.returncode, done.stderr) == (0, f"commands use edge now: {FAR}\n")
    listed = lines(cli("servers", "list"))
    assert [(one["name"], one["in_use"], one["api_key_in"]) for one in listed] == [
        ("here", False, "stored"),
        ("edge", True, str(Path("key").absolute())),
    ]
    assert listed[1]["ca_file"] == str(Path("ca.pem").absolute())
    shown = cli("servers", "list", "--text").stdout.split("\n")[2].split()
    assert shown[:3] == ["edge", "yes", FAR]
    for words in (
        ("add", "edge", FAR),
        ("use", "gone"),
        ("remove", "gone"),
        ("use",),
        ("use", "edge", "--none"),
    ):
        assert cli("servers", *words).returncode == 2, words
    assert cli("servers", "add", "edge", "http://other", "--overwrite").returncode == 0
    assert cli("servers", "use", "here").returncode == 0
    assert cli("servers", "remove", "edge").returncode == 0
    assert _servers.read() == Servers({"here": Server(server.url, "psk_1")}, "here")
    assert cli("servers", "use", "--none").returncode == 0
    assert _servers.read().default is None


@pytest.mark.parametrize(
    "words",
    [
        ("no spaces", FAR),
        ("..", FAR),
        ("edge", "edge.example"),
        ("edge", "http://"),
        ("edge", "http://[::1"),
        ("edge", "http://me:hunter2@h.example"),
        ("edge", FAR, "--api-key-env", "X", "--ask-api-key"),
        ("edge", FAR, "--ask-api-key"),  # nothing on stdin
        ("edge", FAR, "--ca-file", "gone.pem"),
    ],
)
def test_a_server_that_cannot_be_is_not_added(file, words):
    done = cli("servers", "add", *words)
    assert (done.returncode, file.exists(), "hunter2" in done.stderr) == (2, False, False)


def test_a_file_that_cannot_be_written_is_said(file):
    file.parent.parent.write_text("no folder")
    done = cli("servers", "add", "edge", FAR)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def run_unnamed(*words: str) -> int:
    """Run a command line as it is, and return its exit code."""
    return CliRunner().invoke(program, list(words)).exit_code


def test_a_command_talks_to_the_server_it_names_with_that_servers_key(server, monkeypatch):
    _servers.write(Servers({"here": Server(server.url, "psk_1"), "off": Server(AT, "psk_2")}, "off"))

    def models(*words: str) -> tuple[int, str | None]:
        code = run_unnamed(*words)
        seen = server.asked("/v1/models")[-1:]
        server.seen.clear()
        return code, seen[0].headers.get("authorization") if seen else None

    assert models("--server", "here", "models", "list") == (0, "Bearer psk_1")
    assert models("models", "list", "--server", "here") == (0, "Bearer psk_1")
    assert models("--server", "off", "models", "list", "--server", "here") == (0, "Bearer psk_1")
    assert models("--server", "off", "models", "list", "--url", server.url) == (0, None)
    monkeypatch.setenv("PENSTOCK_SERVER", "here")
    assert models("models", "list") == (0, "Bearer psk_1")
    assert models("--api-key", "psk_3", "models", "list") == (0, "Bearer psk_3")
    monkeypatch.setenv("PENSTOCK_SERVER", "gone")
    assert models("models", "list") == (2, None)
    _servers.write(Servers({"open": Server(server.url)}, None))
    monkeypatch.setenv("PENSTOCK_API_KEY", "psk_other")
    assert models("--server", "open", "models", "list") == (0, None)
    monkeypatch.setenv("PENSTOCK_SERVER", "open")
    assert models("models", "list") == (0, "Bearer psk_other")


def test_a_password_in_an_address_is_sent_and_never_shown(server):
    address = server.url.replace("://", "://me:hunter%202@")
    done = run(address, "status", "--health")
    assert (done.returncode, "hunter" in done.stdout + done.stderr) == (0, False)
    expected = "Basic " + base64.b64encode(b"me:hunter 2").decode()
    assert {one.headers.get("authorization") for one in server.seen} == {expected}
    for bad in ("http://me:hunter2@127.0.0.1:9", "ftp://me:hunter2@h", "http://me:hunter2@"):
        done = run(bad, "models", "list")
        assert (done.returncode in {2, 3}, "hunter2" in done.stdout + done.stderr) == (True, False)
