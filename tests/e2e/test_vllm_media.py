"""Media by URL, as vLLM's connector of the worker fetches it: from nowhere, unless domains are allowed."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import pytest_asyncio

from tests.loopback import LoopbackServer
from tests.pictures import base64_of, data_uri, picture
from tests.support import free_port
from workers.engines.vllm import media
from workers.engines.vllm.media import NAME, MediaRules, PrivateAddressError, check_address, domains, guard

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("vllm")]


MOST_BYTES, MOST_PIXELS = 10_000, 10_000
PNG = picture(size=(4, 4))


def refusal() -> type[Exception]:
    """Return what vLLM answers with 400."""
    from vllm.exceptions import VLLMValidationError

    return VLLMValidationError


class Images(BaseHTTPRequestHandler):
    """Serves an image, a redirect to it, one that is too large, and nothing."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status = {"/elsewhere": 302, "/missing": 404, "/broken": 500}.get(self.path, 200)
        body = b"" if status != 200 else PNG + bytes(MOST_BYTES) if self.path == "/large" else PNG
        self.send_response(status)
        self.send_header("location", f"http://{self.headers['host']}/image.png")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server of images on this machine; what it was asked for is in ``Images.asked``."""
    monkeypatch.setenv("VLLM_MEDIA_FETCH_MAX_RETRIES", "1")
    Images.asked = []
    with LoopbackServer(Images, "images") as server:
        yield server.url


class Made:
    """Makes connectors, and closes what they have opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._close: list[Callable[[], Awaitable[None]]] = []

    def __call__(self, *domains: str, private: bool = False) -> Any:
        """Return the connector as vLLM makes it for a request."""
        for name in ("VLLM_MEDIA_CONNECTOR", "VLLM_MEDIA_URL_ALLOW_REDIRECTS", "VLLM_MAX_IMAGE_PIXELS"):
            self._monkeypatch.setenv(name, "")
            self._monkeypatch.delenv(name)
        self._close.append(
            guard(MediaRules(private, image_max_bytes=MOST_BYTES, image_max_pixels=MOST_PIXELS))
        )
        from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY

        return MEDIA_CONNECTOR_REGISTRY.load(
            NAME, media_io_kwargs={}, allowed_local_media_path="", allowed_media_domains=list(domains) or None
        )

    async def aclose(self) -> None:
        for close in self._close:
            await close()


@pytest_asyncio.fixture(loop_scope="session")
async def connector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    from vllm import envs

    envs.disable_envs_cache()  # an engine of this session has fixed what vLLM reads of the environment
    made = Made(monkeypatch)
    yield made
    await made.aclose()


async def test_without_allowed_domains_nothing_is_fetched(images: str, connector: Made) -> None:
    with pytest.raises(refusal(), match=r"no --allowed-media-domains are set; send .* as a data: URL"):
        await connector().fetch_image_async(f"{images}/image.png")
    assert Images.asked == []


async def test_a_host_outside_the_domains_is_refused(images: str, connector: Made) -> None:
    with pytest.raises(refusal(), match=r"no media from 127.0.0.1: it is not in --allowed-media-domains"):
        await connector("example.com", private=True).fetch_image_async(f"{images}/image.png")
    assert Images.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_private_addresses_are_refused_in_allowed_domains_too(
    images: str, connector: Made, host: str
) -> None:
    url = images.replace("127.0.0.1", host)
    for allowed in ((host,), ("*",)):
        with pytest.raises(refusal(), match=f"no media from {host}: its address is in a private network"):
            await connector(*allowed).fetch_image_async(f"{url}/image.png")
    assert Images.asked == []


async def test_a_name_that_changes_its_address_after_the_check_is_refused(
    images: str, connector: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = connector("*")

    async def passed(_: str) -> None:
        return

    monkeypatch.setattr(media, "_check_host", passed)
    with pytest.raises(refusal(), match=r"127\.0\.0\.1"):
        await made.fetch_image_async(f"{images}/image.png")
    assert Images.asked == []


async def test_private_networks_can_be_allowed_but_redirects_are_not_followed(
    images: str, connector: Made
) -> None:
    made = connector("127.0.0.1", private=True)
    image = await made.fetch_image_async(f"{images}/image.png")
    assert image.size == (4, 4)
    with pytest.raises(ValueError, match="cannot identify image"):
        await made.fetch_image_async(f"{images}/elsewhere")
    assert Images.asked == ["/image.png", "/elsewhere"]


async def test_what_was_opened_is_closed_at_the_end(images: str, connector: Made) -> None:
    """An open session that is forgotten warns when it is collected, in whatever runs then."""
    await connector("127.0.0.1", private=True).fetch_image_async(f"{images}/image.png")
    await connector.aclose()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        guard(MediaRules())  # the connector that was used is forgotten
        gc.collect()
    assert [str(one.message) for one in seen if "client session" in str(one.message)] == []


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/missing", "cannot be fetched: it answered 404"),
        ("/broken", "cannot be fetched: it answered 500"),
        ("/large", f"exceeded maximum size of {MOST_BYTES} bytes"),
    ],
)
async def test_a_url_that_gives_no_image_is_the_clients_error(
    images: str, connector: Made, path: str, why: str
) -> None:
    with pytest.raises(refusal(), match=why):
        await connector("127.0.0.1", private=True).fetch_image_async(f"{images}{path}")


async def test_a_host_that_is_away_is_the_clients_error(
    connector: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_MEDIA_FETCH_MAX_RETRIES", "1")
    url = f"http://127.0.0.1:{free_port()}/image.png"
    with pytest.raises(refusal(), match=r"the media at 127.0.0.1 cannot be fetched: .*; send the media"):
        await connector("127.0.0.1", private=True).fetch_image_async(url)


async def test_data_urls_need_no_domain(connector: Made) -> None:
    assert (await connector().fetch_image_async(data_uri(PNG))).size == (4, 4)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "data:image/png,red",
        "data:image/png;base64,AAAA",
        data_uri(picture(size=(101, 100))),
        "data:image/png;base64," + base64_of(PNG[:40]),
    ],
)
async def test_an_image_that_cannot_be_read_is_the_clients_error(connector: Made, url: str) -> None:
    """vLLM answers 400 for these two exceptions, and 500 for any other, which is tried again."""
    with pytest.raises((refusal(), ValueError)):
        await connector().fetch_image_async(url)


async def test_a_connector_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", "theirs")
    guard(MediaRules())
    assert os.environ["VLLM_MEDIA_CONNECTOR"] == "theirs"
    assert domains(["example.com"]) is None


async def test_domains_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_MEDIA_CONNECTOR", NAME)
    assert (domains(None), domains(["b.org", "a.org"])) == ((), ("a.org", "b.org"))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("64:ff9b::a00:1", "2002:7f00:1::"),
    ],
)
async def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(PrivateAddressError):
        check_address(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
async def test_public_addresses(address: str) -> None:
    check_address(address)
