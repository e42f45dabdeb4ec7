"""The api over TLS: its certificate changes while it serves, and clients may have to show theirs."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.connections.tls import Tls, TlsFiles, TlsStartError
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from penstock import APIConnectionError, ArgumentError, AsyncPenstock, Penstock
from penstock.server.errors import CommandFailed, starting
from tests.apiserver import ApiServer
from tests.certificates import Authority
from tests.environment import clean
from tests.integration.test_api_openai import BODY, CHAT, HEAD
from tests.processes import ROOT
from tests.puppet import Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority, tmp_path: Path) -> tuple[Path, Path]:
    """The server's files, as they are at its start."""
    cert, key = authority.sign("first")
    return Path(shutil.copy(cert, tmp_path / "tls.crt")), Path(shutil.copy(key, tmp_path / "tls.key"))


@pytest.fixture
def api(broker_settings: BrokerSettings, pair: tuple[Path, Path]) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, tls_cert_file=pair[0], tls_key_file=pair[1]) as server:
        yield server


def shown(api: ApiServer, authority: Authority) -> str:
    """Return the name in the certificate that a new connection gets."""
    context = ssl.create_default_context(cafile=authority.file)
    with (
        socket.create_connection(("127.0.0.1", api.settings.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as made,
    ):
        names: Any = made.getpeercert()
        return dict(one[0] for one in names["subject"])["commonName"]


async def test_calls_streams_and_the_sdk(
    api: ApiServer, authority: Authority, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet = Puppet(store)
    await puppet.live()
    assert api.url.startswith("https://")
    trusting = ssl.create_default_context(cafile=authority.file)
    async with api.client(verify=trusting) as http:
        for stream in (False, True):
            asked = asyncio.create_task(http.post(CHAT, json=BODY | {"stream": stream}))
            claim = await puppet.take()
            if stream:
                await puppet.say(claim, HEAD)
            await puppet.succeed(claim, b'{"x":1}')
            got = await asked
            assert got.status_code == 200
            assert got.text == '{"x":1}' if not stream else got.text.endswith("data: [DONE]\n\n")
        large = await http.post(CHAT, content=b" " * (api.settings.max_body_bytes + 1))
        assert large.status_code == 413  # its answer is read before the connection ends
    with (
        pytest.raises(APIConnectionError, match="PENSTOCK_CA_FILE"),
        Penstock(api.url, max_retries=0) as ours,
    ):
        await asyncio.to_thread(ours.health)
    monkeypatch.setenv("PENSTOCK_CA_FILE", str(authority.file))
    with Penstock(api.url) as ours:
        assert [one.id for one in await asyncio.to_thread(ours.models)] == ["puppet"]
    async with AsyncPenstock(api.url) as ours:
        assert (await ours.health()).status
    monkeypatch.setenv("PENSTOCK_CA_FILE", str(authority.file) + ".none")
    with pytest.raises(ArgumentError, match="PENSTOCK_CA_FILE"):
        Penstock(api.url)
    with Penstock(api.url, ca_file=str(authority.file)) as ours:  # it comes before the variable
        await asyncio.to_thread(ours.health)
    async with AsyncPenstock(api.url, ca_file=str(authority.file)) as ours:
        assert (await ours.health()).status
    with pytest.raises(ArgumentError, match=r"^ca_file names .*none"):
        Penstock(api.url, ca_file=f"{authority.file}.none")
    monkeypatch.delenv("PENSTOCK_CA_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))  # httpx's own way
    with Penstock(api.url) as ours:
        await asyncio.to_thread(ours.health)


async def test_plain_http_and_old_versions_get_nothing(api: ApiServer) -> None:
    port = api.settings.port
    with pytest.raises(httpx.TransportError):
        async with httpx.AsyncClient() as http:
            await http.get(f"http://127.0.0.1:{port}/health/live")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)


async def test_new_connections_get_the_changed_certificate_and_old_ones_live_on(
    api: ApiServer, authority: Authority, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    async def shows(name: str) -> bool:
        return await asyncio.to_thread(shown, api, authority) == name

    async with api.client(verify=ssl.create_default_context(cafile=authority.file)) as http:
        first = (await http.get("/health/live")).extensions["network_stream"].get_extra_info("socket")
        assert await shows("first")
        cert, key = authority.sign("second")
        shutil.copy(cert, pair[0])  # not yet its key: the two do not belong together
        said = ""

        async def refused() -> bool:
            nonlocal said
            said += capsys.readouterr().out
            return "tls_files_refused" in said

        await eventually(refused)
        assert await shows("first")
        shutil.copy(key, pair[1])
        await eventually(lambda: shows("second"))
        pair[0].unlink()
        await eventually(lambda: not pair[0].exists())
        assert await shows("second")
        again = (await http.get("/health/live")).extensions["network_stream"].get_extra_info("socket")
        assert again is first
    assert "tls_files_read" in said + capsys.readouterr().out


async def test_clients_must_show_a_certificate_and_the_authority_may_change(
    broker_settings: BrokerSettings, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, others = Authority(tmp_path, "clients"), Authority(tmp_path, "others")
    trusted = Path(shutil.copy(clients.file, tmp_path / "trusted.pem"))
    given = {"tls_cert_file": authority.sign_whole("server"), "tls_client_ca_file": trusted}
    mine, theirs = clients.sign_whole("mine"), others.sign_whole("theirs")

    async def may(server: ApiServer, cert: Path | None) -> bool:
        context = ssl.create_default_context(cafile=authority.file)
        if cert is not None:
            context.load_cert_chain(cert)
        async with server.client(verify=context) as http:
            try:
                return (await http.get("/health/live")).status_code == 200
            except httpx.TransportError:
                return False

    with ApiServer(broker_settings, **given) as server:
        assert [await may(server, cert) for cert in (None, mine, theirs)] == [False, True, False]
        shutil.copy(others.file, trusted)
        await eventually(lambda: may(server, theirs))
        assert [await may(server, cert) for cert in (None, mine)] == [False, False]
        monkeypatch.setenv("PENSTOCK_CA_FILE", str(authority.file))
        monkeypatch.setenv("PENSTOCK_CLIENT_CERT_FILE", str(theirs))
        with Penstock(server.url) as ours:
            await asyncio.to_thread(ours.health)


async def test_files_that_cannot_be_used_stop_the_start(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.sign("one")
    _, other = authority.sign("other")
    for files in (
        TlsFiles(cert, other),
        TlsFiles(cert, tmp_path / "none"),
        TlsFiles(cert, cert),
        TlsFiles(cert, key, key),
    ):
        with pytest.raises(TlsStartError, match=r"one\.pem.*: .*PEM"):
            Tls(files)


async def test_a_key_without_a_certificate_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from api.main import run_api

    monkeypatch.setenv("PENSTOCK_TLS_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(CommandFailed, match="there is no tls_cert_file"):
        starting("api", run_api)


@pytest.mark.parametrize("mutual", [False, pytest.param(True, marks=pytest.mark.full)])
async def test_penstock_up_serves_it_and_prints_its_address(
    authority: Authority, tmp_path: Path, *, mutual: bool
) -> None:
    cert, key = authority.sign("up")
    flags = ["--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    flags += ["--tls-client-ca-file", str(authority.file)] if mutual else []
    argv = [sys.executable, "-m", "penstock", "up", "--engine", "simulated", "--no-flower", "--port", "0"]
    data = tmp_path / "data"
    with subprocess.Popen(
        [*argv, "--data-dir", str(data), *flags],
        cwd=tmp_path,
        env=clean() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        try:
            assert up.stdout is not None
            said = await asyncio.to_thread(_until_ready, up.stdout)
            url = said.rpartition(" on ")[2].strip()
            assert url.startswith("https://127.0.0.1:")
            told = {"PENSTOCK_CA_FILE": str(authority.file), "PENSTOCK_DATA_DIR": str(data)}
            if mutual:
                told["PENSTOCK_CLIENT_CERT_FILE"] = str(authority.sign_whole("me"))
            asked = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-m", "penstock", "submit", "hi", "--wait"],
                cwd=tmp_path,
                env=clean() | told | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert asked.returncode == 0, asked.stderr
        finally:
            up.terminate()
            await asyncio.to_thread(up.wait, 40)


def _until_ready(lines: Any) -> str:
    for line in lines:
        if "penstock is ready on" in line:
            return line
    raise AssertionError("it is not ready")
