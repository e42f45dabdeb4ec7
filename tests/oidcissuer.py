"""An OIDC issuer of the tests: a real HTTP server on loopback, with real keys."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

_MADE: dict[str, tuple[Any, Any]] = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}

AUDIENCE = "penstock-of-the-tests"


class OidcIssuer:
    """Serves its discovery document and its keys until the block ends.

    Attributes:
        away: while true, every request is answered 503.
        asked: paths that were asked for.
        documents: what is served, by path.
    """

    def __init__(self) -> None:
        self.away = False
        self.asked: list[str] = []
        self.private: dict[str, tuple[str, Any]] = {}
        self._published: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="issuer")
        self.url = f"http://127.0.0.1:{self._server.server_port}/realm"
        self.documents: dict[str, Any] = {
            "/realm/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/realm/keys": {"keys": self._published},
        }

    def add_key(self, key_id: str, algorithm: str, **more: Any) -> None:
        """Make a key and publish its public half."""
        make, kind = _MADE[algorithm]
        private = make()
        public = json.loads(kind.to_jwk(private.public_key()))
        self.private[key_id] = algorithm, private
        self._published.append({**public, "kid": key_id, "alg": algorithm, "use": "sig", **more})

    def drop_key(self, key_id: str) -> None:
        """Publish a key no more."""
        self._published[:] = [key for key in self._published if key["kid"] != key_id]

    def token(self, key_id: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign a token. A claim that is None is left out."""
        now = int(time.time())
        said = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": now + 600,
            "iat": now,
            "tenant": "alice",
            "scope": "penstock:jobs:read penstock:jobs:write",
        } | claims
        algorithm, private = self.private[key_id]
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, private, algorithm, {"kid": key_id} if headers is None else headers)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                found = issuer.documents.get(self.path)
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(503 if issuer.away else 404 if found is None else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
