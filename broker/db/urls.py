"""Addresses of Redis, as redis-py and as kombu write them, and of a master that Redis Sentinel knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

_SENTINEL_TLS = "rediss+sentinel"
_SENTINEL_SCHEMES = {"sentinel", "redis+sentinel", _SENTINEL_TLS}
_SENTINEL_PORT = 26379
_SENTINEL_FORM = "sentinel://[user:password@]host:26379,host:26379/master-name[/db]"
_SENTINEL_ERROR = "a Sentinel address"
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}
_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}


class UnknownSchemeError(ValueError):
    """An address does not begin as one of Redis does."""


@dataclass(frozen=True, slots=True)
class Sentinels:
    """Who knows where the master is, and how to log in at both.

    Attributes:
        hosts: the sentinels' hosts and ports, asked in this order.
        master: the name under which they watch the master.
        username: for the master.
        password: for the master.
        login: ``username`` and ``password`` for the sentinels themselves, if they need any.
        tls: redis-py's options of TLS, for the sentinels and the master; None: without TLS.
    """

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int
    username: str | None
    password: str | None
    login: tuple[tuple[str, str], ...] = ()
    tls: tuple[tuple[str, str | bool], ...] | None = None


def sentinels_of(url: str) -> Sentinels | None:
    """Read ``sentinel://[user:password@]host[:port],host[:port]/master-name[/db]``; None: an address of another kind.

    ``redis+sentinel://`` is the same, ``rediss+sentinel://`` with TLS, whose files are ``?ssl_ca_certs=``, ``ssl_certfile=``
    and ``ssl_keyfile=``. The user and password are the master's; ``?sentinel_password=`` and ``sentinel_username=`` are the
    sentinels' own.

    Raises:
        ValueError: it is one, but cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SENTINEL_SCHEMES:
        return None
    userinfo, _, netloc = parts.netloc.rpartition("@")
    hosts = tuple(_host(item) for item in netloc.split(",") if item)
    master, _, database = unquote(parts.path).strip("/").partition("/")
    if not hosts or not master or not (database or "0").isdecimal():
        raise ValueError(f"{_SENTINEL_ERROR} reads {_SENTINEL_FORM}")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    secure = parts.scheme == _SENTINEL_TLS
    if unknown := options.keys() - _SENTINEL_OPTIONS - (_TLS_OPTIONS if secure else set()):
        raise ValueError(f"{_SENTINEL_ERROR} takes no option {', '.join(sorted(unknown))}")
    tls = tuple(sorted(_tls(parts.query).items())) if secure else None
    username, _, password = (unquote(part) for part in userinfo.partition(":"))
    own = sorted((name, value) for name, value in options.items() if name in _SENTINEL_OPTIONS)
    login = tuple((name.removeprefix("sentinel_"), value) for name, value in own)
    return Sentinels(hosts, master, int(database or 0), username or None, password or None, login, tls)


def _tls(query: str) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {"ssl_cert_reqs": "required"}
    found |= {name: values[-1] for name, values in parse_qs(query).items() if name.startswith("ssl_")}
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = str(found["ssl_check_hostname"]).lower() not in {"false", "no", "0"}
    return found


def tls_options(url: str) -> dict[str, str | bool] | None:
    """Return redis-py's options of TLS that an address has, for Celery and Flower; None: the address is without TLS."""
    parts = urlsplit(url)
    return _tls(parts.query) if parts.scheme in {"rediss", _SENTINEL_TLS} else None


def _host(text: str) -> tuple[str, int]:
    one = urlsplit(f"//{text}")
    if not one.hostname or one.username is not None:
        raise ValueError(f"{_SENTINEL_ERROR} reads {_SENTINEL_FORM}")
    return one.hostname, one.port or _SENTINEL_PORT


def check_url(url: str) -> None:
    """Check that an address can be read.

    Raises:
        ValueError: it cannot. The message has no part of the address that might be a password.
    """
    try:
        if urlsplit(url).scheme in {"redis", "rediss"}:
            _ = urlsplit(url).port  # parsed when it is asked for
        celery_url(url)
    except UnknownSchemeError:
        raise
    except ValueError as error:
        if str(error).startswith(_SENTINEL_ERROR):
            raise
        # The original quotes parts of the address.
        raise ValueError(
            "the Redis address cannot be read: write each special character of a password as %XX"
            " (percent-encoding, for example %2F for /)"
        ) from None


def celery_url(url: str) -> str:
    """Turn redis-py's address into kombu's; of several sentinels it names the first; :func:`celery_options` names all.

    ``redis://`` and ``rediss://`` are the same in both; ``unix:///path?db=0`` becomes ``redis+socket:///path?virtual_host=0``.

    Raises:
        UnknownSchemeError: the scheme is none of these.
        ValueError: the address cannot be read.
    """
    parts = urlsplit(url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parts.query:
        # kombu takes a bare rediss:// as "without certificate checks", redis-py as "with"
        query = f"{parts.query}&ssl_cert_reqs=required".lstrip("&")
        return urlunsplit(parts._replace(query=query))
    if parts.scheme in {"redis", "rediss"}:
        return url
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[0]
        return f"redis+socket://{parts.path}?virtual_host={database}"
    if sentinels := sentinels_of(url):
        user = ":".join(quote(part or "", safe="") for part in (sentinels.username, sentinels.password))
        host, port = sentinels.hosts[0]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return f"sentinel://{user}@{where}/{sentinels.database}".replace("//:@", "//")
    scheme, there, _ = url.partition("://")
    raise UnknownSchemeError(
        "a Redis address starts with redis://, rediss://, unix://, sentinel:// or rediss+sentinel://"
        + (f", not {scheme}://" if there and scheme == parts.scheme else "")
    )


def celery_options(url: str) -> dict[str, Any]:
    """Return the transport options that kombu and Flower need besides the address."""
    sentinels = sentinels_of(url)
    if sentinels is None:
        return {}
    own = sentinel_options(sentinels)
    return {"sentinels": sentinels, "master_name": sentinels.master, "sentinel_kwargs": own}


def sentinel_options(sentinels: Sentinels) -> dict[str, Any]:
    """Return redis-py's options of a connection to a sentinel itself."""
    return dict(sentinels.login) | ({} if sentinels.tls is None else {"ssl": True, **dict(sentinels.tls)})


def with_password(url: str, password: str) -> str:
    """Return an address with a password, if it has none. One of a unix socket stays as it is: the file's mode protects it.

    Raises:
        ValueError: the address cannot be read.
    """
    parts = urlsplit(url)
    user, _, hosts = parts.netloc.rpartition("@")
    if parts.scheme == "unix" or ":" in user:
        return url
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{hosts}"))


def without_password(url: str) -> str:
    """Return an address without its password."""
    parts = urlsplit(url)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if colon:
        url = url.replace(f"{userinfo}@{hosts}", f"{user}:***@{hosts}", 1)
    return re.sub(r"(password=)[^&]*", r"\1***", url)
