"""Why vLLM did not start: the errors that its processes logged, and one message from them. Imports no vLLM.

The exception that reaches us only says that the engine process failed. The cause is in the log of that process, or of a
process below it, so vLLM's logging configuration names :class:`FirstErrors` too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from workers.engines.vllm.probes import AbilityError
from workers.engines.vllm.start_hints import hint

_KEEP_BYTES = 64 * 1024
_SHOWN = 600
_POINTERS = (
    *("initialization failed", "see stack trace", "see root cause", "failed core proc"),
    *("engine process is dead", "output_handler failed", "enginecore encountered"),
)
"""Words of errors that only point at another one."""

_MEMORY = re.compile(
    r"out of memory|available memory|free memory|kv cache (memory|is needed)|bad_?alloc", re.IGNORECASE
)
_KILLED = re.compile(r"proc\(s\): .*(-9|SIGKILL)", re.IGNORECASE)
_MEMORY_HINT = (
    "Less memory: a smaller KV cache (--kv-cache-gib, or --engine-arg=--gpu-memory-utilization=...), a shorter context "
    "(--engine-arg=--max-model-len=...), or fewer jobs at once (--concurrency)."
)
_KILLED_HINT = "The engine process was killed (SIGKILL), as the kernel does when memory runs out."


class FirstErrors(logging.Handler):
    """Writes errors into a file, one line each: the class and message of the exception, else the record's own message.

    Args:
        path: the file; it is opened for each error, so that several processes may write. A full file (64 KiB) takes no more.
    """

    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = Path(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one error."""
        try:
            error = record.exc_info[1] if record.exc_info else None
            text = record.getMessage() if error is None else f"{type(error).__name__}: {error}"
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                if file.tell() < _KEEP_BYTES:
                    file.write(" ".join(text.split()) + "\n")
        except OSError:
            self.handleError(record)


def explain(error: Exception, logged: Sequence[str]) -> str:
    """Say why vLLM did not start: first its own error, then what may help, on a line of its own.

    Args:
        error: what its start raised.
        logged: what :class:`FirstErrors` wrote meanwhile.
    """
    raised = " ".join(str(error).split()) or type(error).__name__
    told = isinstance(error, AbilityError)  # it says of which request the engine died, and the log says why
    lines = logged if told else [raised, *logged]
    cause = next((line for line in lines if not _points_away(line)), raised)
    if (meaning := next(filter(None, map(hint, [raised, *logged])), None)) is not None:
        return f"vLLM did not start: {meaning}\n  vLLM says: {cause[:_SHOWN]}"
    if told and cause != raised:
        return f"vLLM did not start: {raised}\n  vLLM says: {cause[:_SHOWN]}"
    text = f"vLLM did not start: {cause[:_SHOWN]}"
    if _MEMORY.search(cause):
        return f"{text}\n  {_MEMORY_HINT}"
    if _KILLED.search(raised):
        return f"{text}\n  {_KILLED_HINT} {_MEMORY_HINT}"
    return text


def _points_away(line: str) -> bool:
    low = line.lower()
    return any(words in low for words in _POINTERS)
