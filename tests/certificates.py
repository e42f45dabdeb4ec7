"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from urllib.parse import urlencode

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)


class Authority:
    """Signs certificates for ``localhost`` and 127.0.0.1.

    Args:
        folder: where the files go.
        name: of the authority; its certificate is ``NAME.pem``.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(*(place in {5, 6} for place in range(9)))  # keyCertSign, cRLSign
        self._certificate = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )

    def sign(self, name: str) -> tuple[Path, Path]:
        """Make a certificate for servers and clients; return its file, and that of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return cert, secret

    def sign_whole(self, name: str) -> Path:
        """Make a certificate; return a file with it and its key."""
        cert, key = self.sign(name)
        whole = self._folder / f"{name}.whole.pem"
        whole.write_bytes(cert.read_bytes() + key.read_bytes())
        return whole


class Mutual:
    """Mutual TLS between a Redis server and its clients.

    Attributes:
        query: of a client's address: its certificate, its key, and whom it trusts.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = Authority(folder)
        self._server = self._authority.sign("server")
        client, key = self._authority.sign("client")
        files = {"ssl_ca_certs": self._authority.file, "ssl_certfile": client, "ssl_keyfile": key}
        self.query = urlencode({name: str(path) for name, path in files.items()})
        self.trusting = urlencode({"ssl_ca_certs": str(self._authority.file)})

    def server_flags(self, port: int) -> list[str]:
        """Return what a server (or a sentinel) is started with."""
        cert, key = self._server
        files = {"cert-file": cert, "key-file": key, "ca-cert-file": self._authority.file}
        flags = [
            "--port",
            "0",
            "--tls-port",
            str(port),
            "--tls-auth-clients",
            "yes",
            "--tls-replication",
            "yes",
        ]
        return flags + [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]
