"""The part of httpx that both clients share: settings, requests, and one table from its errors to ours."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import httpx

from penstock._core.protocol import Reply, Request
from penstock._core.retry import RetryPolicy
from penstock._version import __version__
from penstock.errors import APIConnectionError, APIResponseError, APITimeoutError, PenstockError

DEFAULT_URL = "http://127.0.0.1:8080"
IDLE_STREAM_S = 90.0
"""A stream that sends nothing for this long, not even a ping, counts as dead and is reopened."""

CLIENT_ARGS: dict[str, Any] = {"limits": httpx.Limits(max_connections=1000, max_keepalive_connections=100)}
"""Arguments of the httpx clients that we make: enough connections to follow many jobs at once."""

FOREIGN_ERRORS: tuple[tuple[type[httpx.RequestError], type[PenstockError]], ...] = (
    (httpx.TimeoutException, APITimeoutError),
    (httpx.UnsupportedProtocol, APIResponseError),
    (httpx.TransportError, APIConnectionError),
    (httpx.DecodingError, APIResponseError),
    (httpx.TooManyRedirects, APIResponseError),
)
"""First match wins. Another try cannot help UnsupportedProtocol, so it is no connection error."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's resolved settings: where, as whom, how patient."""

    url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    calls: RetryPolicy
    follows: RetryPolicy

    @classmethod
    def resolve(
        cls,
        base_url: str | None,
        api_key: str | None,
        timeout_s: float,
        max_retries: int,
        max_reconnects: int,
    ) -> Settings:
        """Fill in each None from the environment, or else from the defaults.

        Raises:
            ValueError: the URL is not an http(s) URL, a number is negative, or the key cannot be sent.
        """
        url = (base_url or os.environ.get("PENSTOCK_URL") or DEFAULT_URL).rstrip("/")
        if not url.startswith(("http://", "https://")) or not _host(url):
            raise ValueError(f"base_url must be an http:// or https:// address, not {url!r}")
        if timeout_s <= 0 or max_retries < 0 or max_reconnects < 0:
            raise ValueError("timeout must be above 0, max_retries and max_reconnects at least 0")
        key = api_key or os.environ.get("PENSTOCK_API_KEY") or None
        if key is not None:
            _check_key(key)
        return cls(
            url=url.removesuffix("/v1"),  # people paste the address they give to the OpenAI SDK
            api_key=key,
            timeout_s=timeout_s,
            calls=RetryPolicy(max_retries),
            follows=RetryPolicy(max_reconnects),
        )

    def args(self, request: Request, *, stream: bool = False) -> dict[str, Any]:
        """Return the arguments of httpx's ``build_request`` for this request."""
        headers = {
            "accept": "application/json",
            **request.headers,
            "user-agent": f"penstock-python/{__version__}",
        }
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        upload = request.upload
        read_s = max(self.timeout_s, IDLE_STREAM_S) if stream else self.timeout_s + request.extra_timeout_s
        file = upload and (upload.filename, _readable(upload.file), "application/jsonl")
        return {
            "method": request.method,
            "url": self.url + request.path,
            "params": request.params,
            "headers": headers,
            "content": request.body,
            "data": upload and upload.fields,
            "files": file and {"file": file},
            "timeout": httpx.Timeout(self.timeout_s, connect=min(self.timeout_s, 5.0), read=read_s),
        }


def _host(url: str) -> str:
    try:
        return httpx.URL(url).host
    except httpx.InvalidURL:  # no ValueError: a line break at its end, for one
        return ""


def _check_key(key: str) -> None:
    """Refuse a key that no header can carry. The message has no part of it."""
    bad = re.search(r"[^\x21-\x7e]", key)
    if bad is None:
        return
    char = bad[0]
    what = "a line break" if char in "\r\n" else "a space" if char.isspace() else "a control character"
    what = "a character outside of ASCII" if ord(char) > 0x7F else what
    where = "at its end" if bad.end() == len(key) else f"at position {bad.start() + 1}"
    raise ValueError(f"the API key has {what} {where}; check api_key, --api-key or PENSTOCK_API_KEY")


class _Pipe:
    """A file that cannot seek, without what httpx guesses its length by: a pipe's looks like 0."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read


def _readable(file: BinaryIO) -> BinaryIO:
    return file if file.seekable() else cast("BinaryIO", _Pipe(file))


def reply_of(response: httpx.Response, *, whole: bool) -> Reply:
    """Copy a response; its body only if it was read as a whole."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, response.content if whole else b"")


def translate(exc: httpx.RequestError, url: str) -> PenstockError:
    """Return our error for one of httpx's, with the original as its cause."""
    detail = str(exc) or type(exc).__name__
    ours = next((ours for theirs, ours in FOREIGN_ERRORS if isinstance(exc, theirs)), APIConnectionError)
    what = "no answer in time from" if ours is APITimeoutError else "cannot reach"
    error = ours(f"{what} {url}: {detail}")
    error.__cause__ = exc
    return error
