"""Children that never outlive the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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
