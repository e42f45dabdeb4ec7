"""``penstock top``: pools, lanes, workers, GPUs and running jobs, redrawn every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from click import option

from penstock.cli._exits import EXIT_CODES, message_of, retrying
from penstock.cli._run import Console, client_command, print_json
from penstock.cli._table import screen

if TYPE_CHECKING:
    from penstock.cli._top_view import Look
    from penstock.client import Penstock

_QUIT = {b"q", b"Q", b"\x1b", b"\x03"}
_STEP_S = 0.1


@click.command("top", epilog=EXIT_CODES)
@option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between updates.",
)
@option("--once", is_flag=True, help="Show it once and exit.")
@option(
    "--jobs",
    type=click.IntRange(0, 100),
    default=5,
    show_default=True,
    help="Longest running jobs to show.",
)
@client_command
def top(console: Console, *, interval: float, once: bool, jobs: int) -> None:
    """Watch the queues, the workers, their GPUs and the longest running jobs. Press `q` to quit.

    \b
    Examples:
      penstock top
      penstock top --interval 5 --jobs 0
      penstock top --once --json | jq '.workers[] | {name, running, tokens_per_s}'

    The workers' figures are as of their last heartbeat (every 3 seconds by default). "wait" is the average time
    that the jobs a worker took lately had waited. With --json: one object per look, one line each.
    """  # noqa: D301  # \b is click's mark
    draws = not (once or console.json)
    with console.client(on_retry=None if draws else retrying) as client:  # a line would hurt the picture
        if once:
            look = _look(client, jobs)
            if console.json:
                print_json(look.as_json())
            else:
                from penstock.cli._top_view import draw

                rich = screen(160)
                rich.print(draw(look, rich.width), end="")
        else:
            with suppress(KeyboardInterrupt):  # the same as q
                (_stream if console.json else _watch)(client, jobs, interval)


def _look(client: Penstock, jobs: int) -> Look:
    """Ask the server. Raises PenstockError."""
    from penstock.cli._top_view import Look
    from penstock.errors import NotFoundError

    workers = client.workers.list()
    try:
        pools = client.pools.list()
    except NotFoundError:  # an older server
        pools = None
    oldest = tuple(client.jobs.list(state="running", order="asc", limit=jobs)) if jobs else ()
    return Look(time.time(), client.base_url, workers, pools, oldest)


def _stream(client: Penstock, jobs: int, interval: float) -> None:
    while True:
        print_json(_look(client, jobs).as_json())
        time.sleep(interval)


def _watch(client: Penstock, jobs: int, interval: float) -> None:
    """Draw until somebody presses q. If the server does not answer, say so above the last figures."""
    from rich.live import Live

    from penstock.cli._top_view import draw
    from penstock.errors import PenstockError

    rich = screen()
    look = _look(client, jobs)  # a server that was never there is an error, not a picture
    with (
        _keys() as pressed,
        Live(console=rich, screen=True, auto_refresh=False, redirect_stderr=False) as live,
    ):
        while True:
            live.update(draw(look, rich.width, rich.height), refresh=True)
            size, until = rich.size, time.monotonic() + interval
            while time.monotonic() < until:
                if pressed() in _QUIT:
                    return
                if rich.size != size:
                    size = rich.size
                    live.update(draw(look, rich.width, rich.height), refresh=True)
            try:
                look = _look(client, jobs)
            except PenstockError as error:
                look = replace(look, error=f"no answer: {message_of(error)}")


@contextmanager
def _keys() -> Iterator[Callable[[], bytes | None]]:
    """Yield a function that reads one key, or returns None after a moment. Without a terminal it only waits."""
    try:
        import select
        import termios
        import tty

        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (ImportError, OSError, ValueError, AttributeError):  # another system, or no terminal
        yield _no_key
        return
    tty.setcbreak(fd)

    def pressed() -> bytes | None:
        ready, _, _ = select.select([fd], [], [], _STEP_S)
        return os.read(fd, 16) if ready else None  # an arrow key is several bytes at once, and no Escape

    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _no_key() -> None:
    time.sleep(_STEP_S)
