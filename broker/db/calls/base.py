"""The functions that Redis runs for us: their arguments and answers, as both sides know them.

Each class is one function of ``broker/lua``: ``BatchStep`` is ``batch_step`` there, which gets the fields by their names. A
field that is None is left out. :mod:`broker.db.library` writes the table by which the Lua side checks the types.

``by`` says who asked for an administrative act, as :meth:`jobs.access.Actor.encode` writes it; the function notes the act in
the audit stream. None: a process of ours asked.

All times are Unix milliseconds of the server's clock, all durations milliseconds. Bodies are no fields: they follow the
call as blobs, as they are.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, ClassVar, Final, Generic, TypeVar, get_args

import msgspec

R_co = TypeVar("R_co", covariant=True)

WRITES: Final = ()
"""Adds data, so it is refused when memory is out. It is no flag of Redis's."""

KEEPS: Final = ("allow-oom",)
"""Runs when memory is out, too: it ends, frees or moves what is there."""

READS: Final = ("no-writes",)
"""Writes nothing, so a replica may run it."""

TOGETHER: Final = 16
"""Jobs that one command accepts or ends. It holds the server up by less than a millisecond."""


class Call(msgspec.Struct, Generic[R_co], omit_defaults=True):
    """A call of one function, which answers with the type that the class names.

    Attributes:
        flags: Redis's flags of the function.
        together: how many calls may share one command. They are carried out one after the other, and what they read of
            limits, tenants and quotas is read once; each has its own reply.
    """

    flags: ClassVar[tuple[str, ...]] = KEEPS
    together: ClassVar[int] = 1

    def alone(self) -> bool:
        """Whether this call has a command to itself, as it may do as much as many."""
        return False

    @classmethod
    @cache
    def function(cls) -> str:
        """Return the function's name in Lua."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def answer_type(cls) -> Any:
        """Return the type of its answer."""
        return get_args(cls.__orig_bases__[0])[0]  # type: ignore[attr-defined]


class Answer(msgspec.Struct):
    """A map that a function answers with."""
