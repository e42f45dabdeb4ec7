"""Bodies made to cost as much as possible: a value that repeats, in a place of some endpoint's body, of some size.

A search tries all of them, then varies the worst: another size, another place, two values in turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

MODEL = b'"simulated"'
_ITEM = b"@"

VALUES: dict[str, bytes] = {
    # repeated in a list, with commas between
    "zero": b"0",
    "negative": b"-1",
    "large integer": b"18446744073709551616",
    "huge integer": b"9" * 4000,
    "float": b"1e9",
    "tiny float": b"4.9e-324",
    "null": b"null",
    "empty text": b'""',
    "empty list": b"[]",
    "empty object": b"{}",
    "list of one": b"[0]",
    "list of a text": b'["a"]',
    "nest": b"[" * 40 + b"]" * 40,
    "object nest": b'{"a":' * 40 + b"0" + b"}" * 40,
    "message": b'{"role":"user","content":""}',
    "message without a role": b'{"content":"a"}',
    "message of parts": b'{"role":"user","content":[{"type":"text","text":5}]}',
    "message of wrong parts": b'{"role":"user","content":[0]}',
    "message with calls": b'{"role":"assistant","tool_calls":[{}]}',
    "part": b'{"type":"text","text":"a"}',
    "tool": b'{"type":"function","function":{"name":"a","parameters":{}}}',
    "tool without a name": b'{"function":{}}',
    "job": b'"job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"',
}

TEXTS: dict[str, bytes] = {
    # repeated in one string
    "ascii": b"a",
    "words": b"word ",
    "marks": b"[{,]}",
    "chinese": "\u4e2d".encode(),
    "escapes": b"\\u4e2d",
    "surrogates": b"\\ud83d\\ude00",
    "lone surrogates": b"\\ud83d",
    "newlines": b"\\n",
    "quotes": b'\\"',
    "backslashes": b"\\\\",
    "not UTF-8": b"\xff",
}

PLACES: dict[str, tuple[bytes, ...]] = {
    "/v1/chat/completions": (
        b'{"model":%m,"messages":@}',
        b'{"model":%m,"messages":[{"role":"system","content":@}]}',
        b'{"model":%m,"messages":[{"role":"user","tool_calls":@}]}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"tools":@}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"tools":[{"function":{"name":"a","parameters":{"a":@}}}]}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema","json_schema":{"a":@}}}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"stop":@}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"stop_token_ids":@}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"logit_bias":@}',
        b'{"model":%m,"messages":[{"role":"user","content":"a"}],"vendor":@}',
        b'{"model":@}',
        b"@",
    ),
    "/v1/completions": (
        b'{"model":%m,"prompt":@}',
        b'{"model":%m,"prompt":[@,@]}',
        b'{"prompt":"a","user":@}',
    ),
    "/v1/embeddings": (b'{"model":%m,"input":@}', b'{"model":%m,"messages":@}'),
    "/v1/jobs": (
        b'{"input":{"model":%m,"messages":@}}',
        b'{"endpoint":"/v1/completions","input":{"model":%m,"prompt":@}}',
        b'{"endpoint":"/v1/completions","input":{"model":%m,"prompt":"a","temperature":0,"vendor":@},"coalesce":true}',
        b'{"input":@}',
        b'{"input":{},"metadata":@}',
        b"@",
    ),
    "/v1/batches": (
        b'{"input_file_id":"a","endpoint":"/v1/completions","completion_window":"24h","metadata":@}',
        b"@",
    ),
    "/v1/dead/retry": (b'{"ids":@}', b"@"),
    "/v1/workers/a/drain": (b'{"timeout_s":@}', b"@"),
    "/v1/files": (b"@",),
}
"""Where a value is put, by the endpoint."""

_FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
_FIELD = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'


def _list(item: bytes, size: int) -> bytes:
    return b"[" + b",".join([item] * max(1, size // (len(item) + 1))) + b"]"


def _text(unit: bytes, size: int) -> bytes:
    return b'"' + unit * max(1, size // len(unit)) + b'"'


def _members(item: bytes, size: int) -> bytes:
    count = max(1, size // (len(item) + 10))
    return b"{" + b",".join(b'"%x":%b' % (n, item) for n in range(count)) + b"}"


def _same_key(item: bytes, size: int) -> bytes:
    return b"{" + b",".join([b'"a":' + item] * max(1, size // (len(item) + 5))) + b"}"


def _deep(item: bytes, size: int) -> bytes:
    return b"[" * (size // 2) + item + b"]" * (size // 2)


_SHAPES: dict[str, Callable[[bytes, int], bytes]] = {
    "list": _list,
    "members": _members,
    "one key": _same_key,
    "depth": _deep,
}


@dataclass(frozen=True, slots=True)
class Body:
    """How a body is made. Attributes: its endpoint, place, shape, value, second value, and size in bytes."""

    path: str
    place: bytes
    shape: str
    value: str
    other: str | None
    size: int

    def content(self) -> bytes:
        """Return its bytes."""
        if self.path == "/v1/files":
            unit = TEXTS.get(self.value, b"\r\n-")
            return _FIELD * 20 + _FORM + unit * (self.size // len(unit))
        if self.shape == "text":
            made = _text(TEXTS[self.value] + TEXTS.get(self.other or "", b""), self.size)
        else:
            value = VALUES[self.value]
            item = value if self.other is None else value + b"," + VALUES[self.other]
            made = _SHAPES[self.shape](value if self.shape != "list" else item, self.size)
        body = self.place.replace(b"%m", MODEL)
        return body.replace(_ITEM, made if body.count(_ITEM) == 1 else made[: self.size // 2] or made)

    def headers(self) -> str:
        """Return its header lines."""
        return "content-type: multipart/form-data; boundary=b\r\n" if self.path == "/v1/files" else ""

    def name(self) -> str:
        """Say what it is, for the table."""
        place = self.place.decode().replace('"model":%m,', "").replace("@", f"<{self.shape} of {self.value}>")
        return f"{self.path} {place if len(place) < 90 else '...' + place[-87:]}"


def first_generation(sizes: tuple[int, ...]) -> list[Body]:
    """Return every value in every place, of every size."""
    bodies = []
    for path, places in PLACES.items():
        for place in places:
            for size in sizes:
                bodies += [Body(path, place, "list", value, None, size) for value in VALUES]
                bodies += [Body(path, place, "text", text, None, size) for text in TEXTS]
                bodies += [
                    Body(path, place, shape, "zero", None, size) for shape in ("members", "one key", "depth")
                ]
    return bodies


def varied(rng: random.Random, body: Body, max_size: int) -> Body:
    """Return a body that differs in one thing."""
    values = list(TEXTS if body.shape == "text" else VALUES)
    change = rng.randrange(4)
    if change == 0:
        return replace(
            body, size=max(100, min(max_size, int(body.size * rng.choice((0.3, 0.5, 0.8, 1.3, 2, 4)))))
        )
    if change == 1:
        return replace(body, place=rng.choice(PLACES[body.path]))
    if change == 2:
        return replace(body, other=rng.choice(values))
    return replace(body, value=rng.choice(values))
