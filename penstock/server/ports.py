"""TCP addresses: is one free, which one is, and how it is written."""

from __future__ import annotations

import errno
import socket

from penstock.server.errors import UpStartError


def claim_port(host: str, port: int, what: str, option: str) -> int:
    """Check that a port can be listened on.

    Args:
        host: name or address to bind.
        port: 0 picks a free one.
        what: who wants it, for the message.
        option: the command line option that names another.

    Returns:
        The port.

    Raises:
        UpStartError: it is taken, or the host cannot be bound.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as the server does: TIME_WAIT is fine
            probe.bind(address)
            probe.listen(1)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise UpStartError(f"{what} cannot listen on {host}: {error.strerror}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} on {host} is taken, and {what} wants it; name another with {option}"
            raise UpStartError(why) from error
        raise UpStartError(f"{what} cannot listen on {host}:{port}: {error.strerror}") from error


def http_address(host: str, port: int, scheme: str = "http") -> str:
    """Return ``http://host:port``, with brackets around an IPv6 address."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def reachable(host: str) -> str:
    """Return where this machine reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
