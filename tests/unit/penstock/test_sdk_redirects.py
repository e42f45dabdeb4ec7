"""Redirects over a real socket: followed within the host, and never with the API key to another one."""

from __future__ import annotations

import io
import json
import socket
from contextlib import closing

import httpx
import pytest

from penstock import AsyncPenstock, Penstock, errors
from penstock._core.http import Settings
from penstock._core.requests import Request
from tests.unit.penstock.double import ID, job


@pytest.fixture
def client(server):
    with Penstock(server.url, api_key="secret") as made:
        yield made


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_get_follows_every_redirect_within_the_server(server, client, status):
    server.faults.append((status, {"location": f"/v1/jobs/{ID}?wait=0"}, ""))
    server.job = job(state="running")
    assert client.jobs.get("job_old").state == "running"
    first, second = server.seen
    assert (first.path, second.path, second.query) == ("/v1/jobs/job_old", f"/v1/jobs/{ID}", {"wait": "0"})
    assert second.headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("status", [307, 308])
def test_a_body_is_sent_again_with_its_key(server, client, status):
    server.faults.append((status, {"location": "/v1/jobs"}, ""))
    assert client.submit({"model": "m"}).id == ID
    first, second = server.seen
    assert second.method == "POST"
    assert json.loads(first.body) == json.loads(second.body) != {}
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_post_never_becomes_a_get(server, client, status):
    server.faults.append((status, {"location": "/v1/jobs/"}, ""))
    with pytest.raises(
        errors.APIResponseError, match="a POST is sent again only after 307 and 308"
    ) as caught:
        client.submit({"model": "m"})
    assert caught.value.status == status
    assert len(server.seen) == 1


def test_another_server_gets_neither_key_nor_body(server, client):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        for call in (lambda: client.jobs.get(ID), lambda: client.submit({}), lambda: next(client.stream(ID))):
            server.faults.append((307, {"location": f"{url}/v1/jobs?token=t"}, ""))
            with pytest.raises(errors.APIResponseError, match="not sent to another server") as caught:
                call()
            assert "token" not in str(caught.value)
        other.settimeout(0.05)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize(
    ("base", "to", "followed"),
    [
        ("http://h.example", "https://h.example/v1/models", True),
        ("http://h.example:8080", "https://h.example:8443/v1/models", True),
        ("https://h.example", "https://h.example:443/v1/models/", True),
        ("https://h.example", "http://h.example/v1/models", False),
        ("http://h.example", "http://h.example:81/v1/models", False),
        ("http://h.example", "https://www.h.example/v1/models", False),
        ("http://h.example", "//other.example/v1/models", False),
        ("http://h.example", "http://h.example@other.example/v1/models", False),
        ("http://h.example", "http://[/", False),
    ],
)
def test_which_addresses_are_the_same_server(base, to, followed):
    answer = httpx.Response(308, headers={"location": to}, request=httpx.Request("GET", base + "/v1/models"))
    request = Request("GET", "/v1/models")
    if followed:
        assert Settings.redirect(request, answer) == httpx.URL(to)
    else:
        with pytest.raises(errors.APIResponseError):
            Settings.redirect(request, answer)


def test_the_error_says_which_address_to_set():
    answer = httpx.Response(
        301,
        headers={"location": "https://www.h.example/penstock/v1/models"},
        request=httpx.Request("GET", "http://h.example/v1/models"),
    )
    with pytest.raises(errors.APIResponseError, match=r"address to https://www\.h\.example/penstock$"):
        Settings.redirect(Request("GET", "/v1/models"), answer)


def test_a_ring_of_redirects_ends(server, client):
    server.faults_of["/v1/models"] = (308, {"location": "/v1/models"}, "")
    with pytest.raises(errors.APIResponseError, match="redirected 5 times"):
        client.models()
    assert len(server.seen) == 6


def test_a_file_is_sent_again_from_its_beginning(server, client):
    server.faults.append((307, {"location": "/v1/files"}, ""))
    client.files.upload(io.BytesIO(b"{}\n"), filename="f.jsonl")
    first, second = server.asked("/v1/files")
    assert b"{}\n" in second.body
    assert len(first.body) == len(second.body)


@pytest.mark.asyncio
async def test_the_async_client_and_streams_follow_too(server):
    server.happened("a", "b")
    async with AsyncPenstock(server.url) as client:
        server.faults.append((302, {"location": f"/v1/jobs/{ID}/events"}, ""))
        assert [piece async for piece in client.stream("job_old")] == ["a", "b"]
        server.faults.append((308, {"location": "https://other.example/"}, ""))
        with pytest.raises(errors.APIResponseError, match="not sent to another server"):
            await client.models()
