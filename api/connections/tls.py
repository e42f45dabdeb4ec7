"""TLS of the api from files, which may change while it serves: new connections then get the new certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class TlsStartError(Exception):
    """The api cannot serve TLS with its files. The message names them and says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a server's certificate is.

    Attributes:
        cert: the certificate and those of the authorities between, PEM.
        key: its private key, without a password.
        client_ca: the authorities whose certificates clients must show; None: clients show none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def stamp(self) -> tuple[object, ...]:
        """Return what changes with the files.

        Raises:
            OSError: one is not there.
        """
        stats = [path.stat() for path in (self.cert, self.key, self.client_ca) if path is not None]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in stats)

    def context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            TlsStartError: one cannot be read, or they do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.cert, self.key, password=_no_password)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
                # A resumed session would outlive a change of the authorities.
                context.options |= ssl.OP_NO_TICKET
                context.num_tickets = 0
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            names = f"{self.cert}, {self.key}" + (f", {self.client_ca}" if self.client_ca else "")
            raise TlsStartError(
                f"TLS cannot be served with {names}: {error}; check that they are PEM and belong together"
            ) from error
        return context


class Tls:
    """A server's TLS. Give :attr:`context` to the server, and call :meth:`look` now and then.

    Raises:
        TlsStartError: the files cannot be used.

    Attributes:
        context: hands each new connection to the certificate that the files had at the last look.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._stamp_now()
        self._current = self.context = files.context()
        self.context.sni_callback = (
            self._choose
        )  # asked for every handshake, also of a client that names no host

    def _stamp_now(self) -> tuple[object, ...] | None:
        try:
            return self._files.stamp()
        except OSError:
            return None

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if connection.context is not self._current:
            connection.context = self._current

    def look(self) -> None:
        """Read the files again if they have changed. Files that cannot be used change nothing, and are logged once."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._current = self._files.context()
        except TlsStartError as error:
            log.warning("tls_files_refused", error=str(error))
        else:
            log.info("tls_files_read", cert=str(self._files.cert))


def _no_password() -> str:
    raise ValueError("the private key has a password; store it without one, readable by this user alone")
