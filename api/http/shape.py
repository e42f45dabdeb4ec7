"""The number of items in a JSON text and how deep they nest, without parsing it. Pure.

Parsing makes an object of every item: 16 MiB of ``[],[],...`` become 400 MB and take a second. Counting them first is
cheap: it deletes what is no mark, skips the strings, and holds the interpreter's lock for under a millisecond at a time.
For a text that is not JSON the result is right up to the first error, which is where a parser stops.
"""

from __future__ import annotations

from itertools import accumulate

from api.http.errors import ApiError, invalid

MAX_DEPTH = 128
"""Most levels of arrays and objects. The schema of a tool has two for each level of its data; real ones stay under 40."""

_CHUNK = 128 * 1024
_MARKS = b'[]{},"\\'
_NOT_MARKS = bytes(set(range(256)) - set(_MARKS))
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""An opening bracket counts 1, and a closing one -1 as a signed byte."""


def check_shape(text: bytes, max_items: int) -> None:
    """Count the elements and members of a JSON text, at all levels.

    Raises:
        ApiError: 400, there are more than ``max_items``, or they nest too deep.
    """
    few = len(text) <= max_items  # an item has one byte at least
    if few and text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return
    items = depth = start = 0
    in_string = False
    while start < len(text):
        piece = text[start : start + _CHUNK]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
            piece = piece[:-1]  # do not part a backslash from its character
        if not piece:  # the text ends with a lone backslash
            return
        start += len(piece)
        # Of the escapes only these matter: the others hide no mark.
        marks = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NOT_MARKS)
        parts = marks.split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        opened = outside.count(b"[") + outside.count(b"{")
        items += outside.count(b",") + opened
        if items > max_items:
            raise _too_many(max_items)
        steps = memoryview(outside.translate(_STEPS, b",\\")).cast("b")
        if depth + opened > MAX_DEPTH and depth + max(accumulate(steps), default=0) > MAX_DEPTH:
            raise _too_deep()
        depth += sum(steps)


def _too_many(limit: int) -> ApiError:
    return invalid(
        f"the body has more than {limit} items (setting max_body_items): each element of an array and each member of"
        " an object is one; split the request"
    )


def _too_deep() -> ApiError:
    message = (
        f"the body is nested too deeply: {MAX_DEPTH} levels of arrays and objects are the most; flatten it"
    )
    return invalid(message, code="invalid_json")
