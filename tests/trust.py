"""The clients of HTTP in a test process share their TLS context.

To read which authorities a client trusts takes 25 ms of CPU time each, and nearly all of them speak plain HTTP.
"""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any

import httpx._transports.default as transports
import httpx2._transports.default as transports2


def share_contexts() -> None:
    """Have httpx, and httpx2 of the SDKs, make the context of a client that asks for nothing special once."""
    for module in (transports, transports2):
        _share(module)


def _share(module: Any) -> None:
    make = module.create_ssl_context

    @cache
    def usual(cert_file: str | None, cert_dir: str | None, trust_env: bool) -> ssl.SSLContext:
        context: ssl.SSLContext = make(trust_env=trust_env)
        return context

    def create(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
        if verify is True and cert is None:  # what the environment names is part of what is asked for
            return usual(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), trust_env)
        context: ssl.SSLContext = make(verify=verify, cert=cert, trust_env=trust_env)
        return context

    module.create_ssl_context = create
