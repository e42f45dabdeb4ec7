"""The form of an address that webhooks may be sent to. Pure: a host's name is resolved when something is sent."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from jobs.addresses import NOTHING, Allowed, refusal

MOST_CHARACTERS = 2048


class TargetError(ValueError):
    """Nothing may be sent to this address. The message says why and what to do."""


def check_target(url: str, *, allow_http: bool = False, allowed: Allowed = NOTHING) -> str:
    """Check an address before it is kept, and again before each request.

    Args:
        url: the address.
        allow_http: ``http://`` is enough.
        allowed: the networks that an operator allows beside the public ones.

    Returns:
        Its host: a name, or an IP address without brackets.

    Raises:
        TargetError: it is no such address.
    """
    if len(url) > MOST_CHARACTERS or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise TargetError(f"the address must have at most {MOST_CHARACTERS} ASCII characters, and no spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise TargetError(f"the address cannot be read: {error}") from None
    if parts.scheme not in {"https", "http"} or not host or port == 0:
        raise TargetError("the address must be a whole one, such as https://example.com/hooks")
    if parts.scheme == "http" and not allow_http:
        raise TargetError("the address must begin with https://; an operator can set `webhook_allow_http`")
    if parts.username is not None or parts.password is not None:
        raise TargetError("the address must hold no user or password: receivers check the signature")
    if parts.fragment:
        raise TargetError("the address must hold no fragment (#)")
    name = host.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        check_address("127.0.0.1", allowed)
    elif _is_address(host):
        check_address(host, allowed)
    elif _NUMERIC.fullmatch(name):
        raise TargetError("the host is a number; write an address with four parts, such as 192.0.2.7")
    return host


_NUMERIC: Final = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+))*")
"""What some libraries read as an address although it has not the usual form: ``127.1``, ``0x7f000001``, ``2130706433``."""


def check_address(address: str, allowed: Allowed) -> None:
    """Check one IP address.

    Raises:
        TargetError: no request may go there.
    """
    why = refusal(address, allowed)
    if why is not None:
        raise TargetError(f"{address} is {why}; an operator can allow it with `webhook_allow_private`")


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
