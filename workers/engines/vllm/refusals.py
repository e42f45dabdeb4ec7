"""Requests that vLLM does not survive, or blames on itself: each is answered with 400. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jobs.abilities import asks, fatal
from jobs.answers import failure_body
from jobs.capabilities import Capabilities
from jobs.failures import FailureCode
from jobs.grammars import holds_tools
from workers.engines.base import EngineRequest, Final
from workers.engines.vllm import wire

_FORMS = {"response_format": None, "structured_outputs": None, "text": "format", "output_config": "format"}
"""Fields that may ask for a form, and where in them it is; None: the field itself is it."""

_OF_VALUES = (OverflowError, TypeError, ValueError)
"""What packing a number or a text raises that no engine can have, such as 10^20 for a count, or half a surrogate pair."""

_QUOTED = 500

_SHAPE = (
    "the engine cannot answer in the form that the request asks for: its schema or grammar cannot be followed, or no token "
    "that the other options leave fits it"
)


class RefusedError(Exception):
    """The request does not reach vLLM. ``final``: the answer to it."""

    def __init__(self, final: Final) -> None:
        super().__init__(final.status)
        self.final = final


def check(able: Capabilities, endpoint: str, body: Mapping[str, Any]) -> None:
    """Refuse a request that the engine would die of.

    Args:
        able: what the model can do.
        body: the parsed body.

    Raises:
        RefusedError: :func:`of_error` returns its answer.
    """
    if (found := fatal(able, endpoint, body)) is not None:
        told = f"the model cannot do this: {found.sentence}"
        raise RefusedError(Final(*failure_body(FailureCode.UNSUPPORTED, told, found.param), None))


def of_error(request: EngineRequest, error: Exception) -> Final | None:
    """Return the answer to a request that raised in vLLM's front while its engine lives; None: the request is not the cause.

    vLLM answers most wrong values itself. These it finds too late: in a stream that has begun, or when a number or a text
    that no engine can have is packed for its engine process.
    """
    if isinstance(error, RefusedError):
        return error.final
    for one in _causes(error):
        if any(cls.__name__ == "VLLMClientError" for cls in type(one).__mro__):
            return _refused(str(one))
        if type(one).__name__ == "EngineGenerateError" and isinstance(one.__cause__, _OF_VALUES):
            return _refused(f"the engine cannot take a value of the request: {one.__cause__}"[:_QUOTED])
    if isinstance(error, UnicodeEncodeError):
        return _refused(f"a text of the request is not Unicode: {error}"[:_QUOTED])
    return _refused(_SHAPE) if _constrained(request) and type(error).__name__ == "ValidationError" else None


def settled(request: EngineRequest, final: Final) -> Final:
    """Return how a run ended, with the client's errors as such.

    vLLM compiles a grammar in its engine process. If that fails, it says "Internal server error", and another attempt would
    end the same way.
    """
    if final.status != 500 or b"Internal server error" not in final.body or not _constrained(request):
        return final
    return _refused(_SHAPE)


def _constrained(request: EngineRequest) -> bool:
    """Return whether the answer must have a form."""
    body = (wire.parse_body(request.body) or {}) if asks(request.body) else {}
    return holds_tools(body) or any(_is_form(body.get(field), inner) for field, inner in _FORMS.items())


def _is_form(value: Any, inner: str | None) -> bool:
    if inner is not None:
        value = value.get(inner) if isinstance(value, Mapping) else None
    return bool(value) and not (isinstance(value, Mapping) and value.get("type") == "text")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _refused(message: str) -> Final:
    return Final(*failure_body(FailureCode.INVALID_REQUEST, message), None)
