"""Children that never outlive their supervisor, however it went.

The kernel's parent-death signal reaches a supervisor's children only; what they started themselves (vLLM's
engine process) would stay. So a guardian kills their process groups. It learns every group from its standard input,
and reads the end of that when the supervisor has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_SCRIPT = """
live=" "
while read -r what group; do
  case $what in
    add) live="$live$group " ;;
    del) case $live in *" $group "*) live="${live%% $group *} ${live#* $group }" ;; esac ;;
  esac
done
for group in $live; do kill -s KILL -- "-$group" 2>/dev/null; done
exit 0
"""


class Guardian:
    """Started at once; costs one small process."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # out of reach of the terminal's signals
        )

    def add(self, group: int) -> None:
        """Watch over a process group."""
        self._tell("add", group)

    def remove(self, group: int) -> None:
        """Forget a group, because it has ended: its number may be given to others."""
        self._tell("del", group)

    def close(self) -> None:
        """Let it end; it kills what was not removed."""
        self._shell.communicate()

    def _tell(self, what: str, group: int) -> None:
        assert self._shell.stdin  # noqa: S101 - a pipe was asked for
        self._shell.stdin.write(f"{what} {group}\n".encode())
        self._shell.stdin.flush()


def die_with_parent(signum: int = signal.SIGKILL) -> Callable[[], None] | None:
    """Make a ``preexec_fn`` by which the kernel signals the child when its parent is gone, however it went.

    Linux watches the *thread* that started the child, so start it from one that lives as long as the process.

    Args:
        signum: what the child gets.

    Returns:
        The function for ``subprocess.Popen(preexec_fn=...)``; None where the kernel has no such thing.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: nothing may be imported after the fork
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    return in_child
