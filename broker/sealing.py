"""Encryption of bodies at the edge to Redis: sealed before a call, opened where they are read. Lua never looks into one.

Request, result, partial result and the chunks of streams are sealed. States, usage, error codes, model, tenant, metadata and
times stay clear: the functions and the lists need them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from jobs.sealing import NONCE_BYTES, TEXT_MARK, Keyring, is_sealed, seal, unseal

_LARGE = 512 * 1024
"""Bytes from which a body is sealed and opened in a thread: it takes about a millisecond."""

REQUEST, RESULT, PARTIAL = "req", "result", "partial"


class Sealer:
    """Seals and opens the bodies of jobs.

    Args:
        keyring: None: nothing is sealed, and what is sealed cannot be read.

    Attributes:
        active: whether bodies are sealed.
    """

    def __init__(self, keyring: Keyring | None) -> None:
        self._keyring = keyring
        self.active = keyring is not None

    async def seal(self, job_id: str, name: str, body: bytes) -> bytes:
        """Seal a body for the field ``name`` of a job; an empty one stays empty. Without keys, return it as it is."""
        if self._keyring is None or not body:
            return body
        if len(body) < _LARGE:
            return _seal(self._keyring, job_id, name, body)
        return await asyncio.to_thread(_seal, self._keyring, job_id, name, body)

    def seal_chunk(self, job_id: str, attempt: int, seq: int, payload: str) -> bytes:
        """Return a chunk of a stream as it is logged and published."""
        if self._keyring is None:
            return payload.encode()
        return _seal(self._keyring, job_id, _place(f"{attempt}-{seq}"), payload.encode())

    async def open(self, job_id: str, name: str, body: bytes | None) -> bytes | None:
        """Open a stored body. One that was written without keys, and None, are returned as they are.

        Raises:
            SealingError: it cannot be decrypted.
        """
        if body is None or not is_sealed(body):
            return body
        if len(body) < _LARGE:
            return unseal(self._keyring, job_id, name, body)
        return await asyncio.to_thread(unseal, self._keyring, job_id, name, body)

    def open_now(self, job_id: str, name: str, body: bytes) -> bytes:
        """As :meth:`open`, in this thread."""
        return unseal(self._keyring, job_id, name, body) if is_sealed(body) else body

    def open_event(self, job_id: str, eid: str, payload: str) -> str:
        """Open an event of a job: a chunk, or an end with its result.

        Raises:
            SealingError: it cannot be decrypted.
        """
        if payload.startswith(TEXT_MARK):
            return unseal(self._keyring, job_id, _place(eid), payload.encode()).decode()
        if payload[:1] == "e":
            cut = payload.find("\n") + 1
            if cut and payload.startswith(TEXT_MARK, cut):
                result = unseal(self._keyring, job_id, RESULT, payload[cut:].encode())
                return payload[:cut] + result.decode()
        return payload

    def blind(self, name: str | None) -> str | None:
        """Return a name that was made of a request, so that nobody without the key can try what it was made of."""
        if self._keyring is None or name is None:
            return name
        return self._keyring.digests(name.encode())[0][:32]

    def digests(self, digest: str) -> Sequence[str]:
        """Return the forms in which a request's digest may be stored: the first is written, the others were.

        So an idempotency key stays known when the keys change, or come into use.
        """
        return (
            (digest,)
            if self._keyring is None or not digest
            else (*self._keyring.digests(digest.encode()), digest)
        )


def _seal(keyring: Keyring, job_id: str, name: str, body: bytes) -> bytes:
    # A result travels in messages that must be text; a request does not, and may have images.
    return seal(keyring, job_id, name, body, os.urandom(NONCE_BYTES), text=name != REQUEST)


def _place(eid: str) -> str:
    return f"chunk {eid}"
