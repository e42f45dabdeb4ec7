"""The last one out: a shell that kills the children's process groups when their supervisor was killed.

The kernel's parent-death signal reaches a supervisor's children only; what they started themselves (vLLM's
engine process) would stay. The guardian learns every group from its standard input, and reads the end of that
when the supervisor has ended, however that happened.
"""

from __future__ import annotations

import subprocess

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
