"""Programs that run on Node."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.setup_node import SDK, STAMP, node_env


def run(*command: str, folder: Path = SDK, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of the TypeScript SDK, or in another one; return what became of it."""
    assert STAMP.exists(), "the TypeScript SDK is not set up: tools/setup_node.py"
    return subprocess.run(
        command,
        cwd=folder,
        env={**node_env(), "CI": "1", "NO_COLOR": "1", **env},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def passes(*command: str, folder: Path = SDK, **env: str) -> str:
    """See that a command ends well; return what it said."""
    done = run(*command, folder=folder, **env)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout
