"""A body that lies in the storage, and the reference to it that a job's record has in its place. Pure."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE_MARK = b"\x02ref "
"""How a reference begins. No body does: one is JSON, or sealed (:mod:`jobs.sealing`)."""

MOST_REFERENCE_BYTES = 64
"""No reference is longer: it has two numbers."""

UPLOAD = "upload"
"""Names the file that came with a call, beside the bodies of its job."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference. It names no object: whose body it is follows from the record that has it.

    Attributes:
        size: bytes of the body.
        writer: the attempt that wrote it; 0: the submission.
    """

    size: int
    writer: int

    def encode(self) -> bytes:
        """Return it as it is stored."""
        return b"%b%d %d" % (REFERENCE_MARK, self.size, self.writer)

    def key(self, job_id: str, name: str) -> str:
        """Return the key of the object. ``name``: the field of the record. No two writers have one key."""
        return f"bodies/{job_id}.{name}.{self.writer}"

    @classmethod
    def read(cls, stored: bytes | None) -> Reference | None:
        """Read a stored body as a reference; None: it is none."""
        if stored is None or not stored.startswith(REFERENCE_MARK):
            return None
        size, writer = stored.removeprefix(REFERENCE_MARK).split()
        return cls(int(size), int(writer))


def upload_key(job_id: str) -> str:
    """Return the key of the file that came with a call."""
    return Reference(0, 0).key(job_id, UPLOAD)
