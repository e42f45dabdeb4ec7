"""The fields of a batch's rows: those that are checked, and those that the endpoint does not have, such as ``max_token``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

import msgspec
from msgspec.structs import fields

from jobs.known_fields import KNOWN_FIELDS

MOST_NAMES: Final = 16
"""Unknown names of an input that are noted: the first ones."""

MOST_LENGTH: Final = 64
"""Characters of a name that are noted."""

NULL: Final = msgspec.Raw(b"null")
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a text that is no JSON, or has another form."""

B = TypeVar("B")


class Line(msgspec.Struct, Generic[B]):
    """One line of an input."""

    custom_id: str
    url: str
    body: B
    method: str = "POST"


class Body(msgspec.Struct):
    """The fields of a row's body that its check reads."""

    model: str | None = None
    stream: bool | None = None
    messages: msgspec.Raw = NULL
    prompt: msgspec.Raw = NULL
    prompt_embeds: msgspec.Raw = NULL
    input: msgspec.Raw = NULL
    query: msgspec.Raw = NULL
    queries: msgspec.Raw = NULL
    text_1: msgspec.Raw = NULL
    data_1: msgspec.Raw = NULL
    data: msgspec.Raw = NULL
    background: msgspec.Raw = NULL
    previous_response_id: msgspec.Raw = NULL
    conversation: msgspec.Raw = NULL


_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class UnknownFields:
    """Reads the lines of an input, and notes the unknown fields in their bodies.

    The parser itself compares a body's fields with those that the lines before had, so only a line with a new name is
    read a second time.

    Attributes:
        found: each unknown name, with the first line that has it.
    """

    def __init__(self, endpoint: str) -> None:
        self.found: dict[str, int] = {}
        self._known = KNOWN_FIELDS[endpoint]
        self._checked = {"model", "stream", *self._known.intersection(Body.__struct_fields__)}
        self._met: dict[str, None] = {}
        self._decode = self._reader()

    def read(self, line: bytes) -> Line[Body] | None:
        """Read a line at once, without the fields of other endpoints; None: it has a new name, or is wrong."""
        try:
            return self._decode(line)
        except UNREADABLE:
            return None

    def learn(self, body: msgspec.Raw, number: int) -> None:
        """Note the new names of a line that :meth:`read` did not read. ``body``: its body, an object."""
        if len(self.found) == MOST_NAMES:
            return
        try:
            names = _decode_members(body)
        except UnicodeDecodeError:  # in a name: it is passed on as it is
            return
        for name in names:
            if name not in self._known and len(self.found) < MOST_NAMES:
                self.found.setdefault(name[:MOST_LENGTH], number)
        if len(self.found) == MOST_NAMES:
            self._decode = self._reader()
        elif new := [name for name in names if self._is_new(name)]:
            self._met |= dict.fromkeys(new)
            self._decode = self._reader()

    def _is_new(self, name: str) -> bool:
        return name not in self._checked and name not in self._met and _can_be_field(name)

    def _reader(self) -> Callable[[bytes], Line[Body]]:
        """Make a reader of lines that refuses a new name in a body, unless no more are noted."""
        full = len(self.found) == MOST_NAMES
        checked = [(one.name, one.type, one.default) for one in fields(Body) if one.name in self._checked]
        names = {} if full else {f"met_{place}": name for place, name in enumerate(self._met)}
        met = [(place, msgspec.Raw, NULL) for place in names]
        body = msgspec.defstruct("_Met", [*checked, *met], rename=names, forbid_unknown_fields=not full)
        return cast("Callable[[bytes], Line[Body]]", msgspec.json.Decoder(Line[body]).decode)  # type: ignore[valid-type]


def _can_be_field(name: str) -> bool:
    """Whether msgspec takes a name for a type's field: not one with a quote, a backslash or a control character.

    Each line that has another name, or a long one, is read a second time.
    """
    return len(name) <= MOST_LENGTH and name.isprintable() and not {'"', "\\"}.intersection(name)
