"""Planning a window of a chunk's rows: in which order they run, and which of them one run answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from jobs.batch_rows import Row
from jobs.determinism import is_deterministic
from jobs.endpoints import RESPONSES

WINDOW_ROWS = 1024
WINDOW_BYTES = 8 * 1024 * 1024
"""A window ends with the line that reaches one of the two. So every attempt at a chunk cuts it into the same windows."""

_KEY_BYTES = 32 * 1024
"""Bytes of a prompt that count for the order: two rows that share more than this stay in the order of the input."""

_none = msgspec.Raw(b"null")


class _Prompt(msgspec.Struct):
    """The fields of a body that become the prompt. Templates write tools before the conversation."""

    instructions: msgspec.Raw = _none
    tools: msgspec.Raw = _none
    messages: msgspec.Raw = _none
    prompt: msgspec.Raw = _none
    input: msgspec.Raw = _none


class _Sampling(msgspec.Struct):
    temperature: float | None = None
    seed: int | None = None
    tools: list[msgspec.Raw] | None = None


_read_prompt = msgspec.json.Decoder(_Prompt).decode
_read_sampling = msgspec.json.Decoder(_Sampling).decode


@dataclass(frozen=True, slots=True)
class Run:
    """One run on the engine.

    Attributes:
        row: the request.
        at: the offset of its line.
        twins: ``custom_id`` and offset of identical rows, which its answer answers too.
    """

    row: Row
    at: int
    twins: tuple[tuple[str, int], ...] = ()

    @property
    def rows(self) -> int:
        """Rows that it answers."""
        return 1 + len(self.twins)

    def apart(self) -> list[Run]:
        """Return a run of its own for each twin."""
        return [Run(Row(custom_id, self.row.body), at) for custom_id, at in self.twins]


@dataclass(frozen=True, slots=True)
class Planner:
    """How the rows of a window run.

    Attributes:
        prefix_order: order the rows by their prompts, so that those with a common prefix find it in the engine's cache.
        identical_once: let one run answer all deterministic rows whose bodies are the same to the byte.
    """

    prefix_order: bool
    identical_once: bool

    def window(self, endpoint: str) -> Window:
        """Begin a window."""
        return Window(endpoint, self)


class Window:
    """Rows of a window. A plan of some of them has them in the same order as a plan of all.

    The work is done row by row, so that its caller can let others go on in between: a large body takes a while.
    """

    def __init__(self, endpoint: str, planner: Planner) -> None:
        self._endpoint, self._planner = endpoint, planner
        self._entries: list[_Entry] = []
        self._first: dict[bytes, _Entry] = {}

    def add(self, row: Row, at: int) -> None:
        """Add a row. ``at``: the offset of its line, larger than that of the row before."""
        first = self._first.get(row.body) if self._planner.identical_once else None
        if first is not None:
            if first.repeats is None:
                first.repeats = repeats_itself(self._endpoint, row.body)
            if first.repeats:
                first.twins.append((row.custom_id, at))
                return
        entry = _Entry(row, at, _prompt_of(row.body) if self._planner.prefix_order else b"")
        self._entries.append(entry)
        self._first.setdefault(row.body, entry)

    def runs(self) -> list[Run]:
        """Return the runs of its rows."""
        ordered = sorted(self._entries, key=lambda entry: entry.prompt)
        return [Run(entry.row, entry.at, tuple(entry.twins)) for entry in ordered]


@dataclass(slots=True)
class _Entry:
    """A run that is planned. ``repeats``: whether its request is deterministic; None: nobody has asked yet."""

    row: Row
    at: int
    prompt: bytes
    repeats: bool | None = None
    twins: list[tuple[str, int]] = field(default_factory=list)


def repeats_itself(endpoint: str, body: bytes) -> bool:
    """Whether two runs of a request give the same answer, and change nothing elsewhere."""
    try:
        sampling = _read_sampling(body)
    except msgspec.DecodeError:
        return False  # the engine refuses it, or knows more than we do
    runs_tools = endpoint == RESPONSES and sampling.tools  # there the server may run them
    return not runs_tools and is_deterministic(endpoint, sampling.temperature, sampling.seed)


def _prompt_of(body: bytes) -> bytes:
    """Return the beginning of a request's prompt, as JSON."""
    try:
        prompt = _read_prompt(body)
    except msgspec.DecodeError:
        return b""
    fields = (prompt.instructions, prompt.tools, prompt.messages, prompt.prompt, prompt.input)
    return b"\0".join([bytes(field) for field in fields])[:_KEY_BYTES]
