"""The part of httpx that both clients share: settings, requests, and one table from its errors to ours."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

import httpx

from penstock._core.replies import Reply, unexpected
from penstock._core.requests import Request, header_value
from penstock._core.retry import RetryPolicy
from penstock._version import __version__
from penstock.errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    ArgumentError,
    PenstockError,
    Retry,
)

DEFAULT_URL = "http://127.0.0.1:8080"
IDLE_STREAM_S = 90.0
"""A stream that sends nothing for this long, not even a ping, counts as dead and is reopened."""

FOREIGN_ERRORS: tuple[tuple[type[httpx.RequestError], type[PenstockError]], ...] = (
    (httpx.TimeoutException, APITimeoutError),
    (httpx.UnsupportedProtocol, APIResponseError),
    (httpx.TransportError, APIConnectionError),
    (httpx.DecodingError, APIResponseError),
    (httpx.TooManyRedirects, APIResponseError),
)
"""First match wins. Another try cannot help UnsupportedProtocol, so it is no connection error."""

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""The connection was not made, so the server has not seen the request."""

MAX_REDIRECTS = 5

_CERT = "PENSTOCK_CLIENT_CERT_FILE"


def client_args(ca_file: str | None = None) -> dict[str, Any]:
    """Return the arguments of the httpx clients that we make: enough connections to follow many jobs at once, and TLS.

    Raises:
        ArgumentError: as of :func:`_tls`.
    """
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
    return {"limits": limits, "verify": _tls(ca_file)}


def _tls(ca_file: str | None) -> ssl.SSLContext:
    """Trust what httpx trusts (``SSL_CERT_FILE``, or else its own list), and ``ca_file`` or else ``PENSTOCK_CA_FILE``.

    ``PENSTOCK_CLIENT_CERT_FILE`` has the client's own certificate and key, for servers that ask for one.

    Raises:
        ArgumentError: one of these files cannot be used.
    """
    context = httpx.create_ssl_context()
    trusted = "PENSTOCK_CA_FILE" if ca_file is None else "ca_file"
    for name, path, load in (
        (trusted, ca_file or os.environ.get(trusted), context.load_verify_locations),
        (_CERT, os.environ.get(_CERT), context.load_cert_chain),
    ):
        if path:
            try:
                load(path)
            except OSError as exc:  # ssl.SSLError is one
                raise ArgumentError(f"{name} names {path}, which cannot be used: {exc}") from exc
    return context


@dataclass(frozen=True, slots=True)
class Settings:
    """A client's resolved settings: where, as whom, how patient."""

    url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    calls: RetryPolicy
    follows: RetryPolicy
    ca_file: str | None = None
    login: str | None = field(default=None, repr=False)
    """The value of a header, for a user and password that the address had; ``url`` has none, so no message shows them."""

    @classmethod
    def resolve(
        cls,
        base_url: str | None,
        api_key: str | None,
        timeout_s: float,
        max_retries: int,
        max_reconnects: int,
        max_retry_s: float,
        on_retry: Callable[[Retry], object] | None,
        ca_file: str | None = None,
    ) -> Settings:
        """Fill in each None from the environment, or else from the defaults.

        Raises:
            ArgumentError: the URL is not an http(s) URL, the key cannot be sent, or a number is negative.
        """
        url, login = _without_login(base_url or os.environ.get("PENSTOCK_URL") or DEFAULT_URL)
        if not url.startswith(("http://", "https://")) or not _has_host(url):
            raise ArgumentError(f"base_url must be an http:// or https:// address, not {url!r}")
        if timeout_s <= 0 or max_retries < 0 or max_reconnects < 0 or max_retry_s < 0:
            raise ArgumentError(
                "timeout must be above 0; max_retries, max_reconnects and max_retry_s at least 0"
            )
        if api_key is None:
            api_key = os.environ.get("PENSTOCK_API_KEY", "")
        key = api_key.strip()  # a file's ends with a newline
        header_value(key, "the API key (api_key or PENSTOCK_API_KEY)")
        return cls(
            url=url.removesuffix("/v1"),  # people paste the address they give to the OpenAI SDK
            api_key=key or None,
            timeout_s=timeout_s,
            calls=RetryPolicy(max_retries, max_retry_s=max_retry_s, on_retry=on_retry),
            follows=RetryPolicy(max_reconnects, max_retry_s=max_retry_s, on_retry=on_retry),
            ca_file=ca_file,
            login=login,
        )

    def args(
        self, request: Request, *, stream: bool = False, redirected: httpx.URL | None = None
    ) -> dict[str, Any]:
        """Return the arguments of httpx's ``build_request`` for this request, or for where it was redirected."""
        headers = {
            "accept": "application/json",
            **request.headers,
            "user-agent": f"penstock-python/{__version__}",
        }
        if self.login:
            headers["authorization"] = self.login
        elif self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        upload = request.upload
        read_s = max(self.timeout_s, IDLE_STREAM_S) if stream else self.timeout_s + request.extra_timeout_s
        file = upload and (upload.filename, _readable(upload.file), "application/jsonl")
        most_s = float("inf") if request.max_s is None else request.max_s
        try_s = min(self.timeout_s, most_s)
        return {
            "method": request.method,
            "url": redirected or self.url + request.path,
            "params": None if redirected else request.params,  # the new address has them
            "headers": headers,
            "content": request.body,
            "data": upload and upload.fields,
            "files": file and {"file": file},
            "timeout": httpx.Timeout(try_s, connect=min(try_s, 5.0), read=min(read_s, most_s)),
        }

    @staticmethod
    def redirect(request: Request, response: httpx.Response) -> httpx.URL:
        """Return where a redirect sends this request.

        The new address must be the same server's, or the same host's over https: the API key, and the user's prompts,
        go nowhere else. A body is sent again only after 307 and 308; after the others it would become a GET.

        Raises:
            APIResponseError: the redirect must not be followed.
        """
        old, where = response.request.url, response.headers["location"]
        reply = reply_of(response, whole=False)
        try:
            new = old.join(where)
        except httpx.InvalidURL as exc:
            raise unexpected(reply, f"{request} is redirected to {where!r}, which is no address") from exc
        why = None
        upgrade = (old.scheme, new.scheme) == ("http", "https") and old.host == new.host
        if not upgrade and _origin(old) != _origin(new):
            why = "the API key is not sent to another server"
        elif request.method != "GET" and response.status_code not in {307, 308}:
            why = f"a {request.method} is sent again only after 307 and 308"
        elif request.upload is not None and not request.upload.file.seekable():
            why = "a pipe cannot be sent again"
        if why is None:
            return new
        shown = str(new.copy_with(query=None, fragment=None))
        raise unexpected(
            reply,
            f"{request} is redirected ({response.status_code}) to {shown}, and {why}."
            f" If that is your server, set the client's address to {shown.removesuffix(request.path)}",
        )


def too_many_redirects(request: Request) -> APIResponseError:
    """Return the error for a chain of redirects that does not end."""
    return APIResponseError(
        f"{request} was redirected {MAX_REDIRECTS} times and again: is the address right?"
    )


def _without_login(url: str) -> tuple[str, str | None]:
    """Return an address without its user and password, and the header that sends them; None: it has none."""
    scheme, sign, rest = url.strip().rstrip("/").partition("://")
    host, slash, path = rest.partition("/")
    login, at, host = host.rpartition("@")
    clean = f"{scheme}{sign}{host}{slash}{path}"
    if not at:
        return clean, None
    user, _, password = login.partition(":")
    plain = f"{unquote(user)}:{unquote(password)}".encode()
    return clean, f"Basic {base64.b64encode(plain).decode('ascii')}"


def _has_host(url: str) -> bool:
    try:
        return bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        return False


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


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
    if "CERTIFICATE_VERIFY_FAILED" in detail:
        detail += "; name its authority's certificate in PENSTOCK_CA_FILE"
    error = ours(f"{what} {url}: {detail}")
    if isinstance(error, APIConnectionError):
        error.sent = not isinstance(exc, NEVER_SENT)
    error.__cause__ = exc
    return error
