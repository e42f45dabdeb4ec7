"""The process that `scripts.py` starts for each version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import _before
from _stack import ROOT

HERE = Path(__file__).parent
SIDES = ("before", "now")


class Driver:
    """The process of one side, which starts a Valkey of its own, as its version does.

    Args:
        side: one of :data:`SIDES`.
        files: keep the server's append-only file, as `penstock up` does.
    """

    def __init__(self, side: str, *, files: bool) -> None:
        self._side, self._flags = side, () if files else ("--no-files",)
        self._up = ExitStack()

    def __enter__(self) -> Self:
        code = ROOT if self._side == "now" else _before.checkout()
        folder = self._up.enter_context(tempfile.TemporaryDirectory(prefix="bench"))
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / f"_scripts_{self._side}.py"), str(code), *self._flags],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(code)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._up.callback(self._process.communicate)
        return self

    def __exit__(self, *_: object) -> None:
        self._up.close()

    def ask(self, part: str, **options: Any) -> dict[str, Any]:
        """Have something measured.

        Raises:
            RuntimeError: the process failed; it has said why on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"part": part, "options": options}) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the side {self._side!r} could not measure {part!r}")
        found: dict[str, Any] = json.loads(answer)
        return found
