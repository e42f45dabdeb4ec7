"""Running the load of ``penstock bench URL`` and telling what was seen; ``penstock/bench/`` has the parts."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli._exits import USAGE, fail, note
from penstock.cli._parse import raw_body
from penstock.cli._run import Console, print_json
from penstock.cli._table import printable, screen

if TYPE_CHECKING:
    from penstock.bench.figures import Figures
    from penstock.bench.run import Load, Run
    from penstock.bench.target import Target

_LIVE_S = 0.5


def fields_of(data: str | None) -> dict[str, Any]:
    """Return the fields of ``--data``. Raises click.UsageError if it is no JSON object."""
    return raw_body(data, "--data") if data else {}


def measured(
    console: Console,
    target: Target,
    wanted: Load,
    *,
    prompts: Path | None,
    prompt_tokens: int,
    data: str | None,
    **_: Any,
) -> tuple[Figures, bool]:
    """Run the load; return what was seen, and whether Ctrl-C ended it. Raises PenstockError."""
    from penstock.bench.figures import Figures
    from penstock.bench.prompts import PromptFileError, made_up, of_file
    from penstock.bench.run import Run
    from penstock.errors import APIConnectionError

    figures = Figures()
    interrupted = False

    def bodies(words: int) -> Iterator[bytes]:
        if prompts is None:
            return made_up(target.path, words, target.common, wanted.seed)
        return of_file(target.path, prompts, target.common, fields_of(data))

    async def first_calls() -> int:
        """See that the server answers, before it is loaded; return how many words make a prompt."""
        try:
            async with asyncio.timeout(wanted.timeout_s):
                if prompts is None:
                    return await target.words_for(prompt_tokens)
                await target.ask(next(bodies(0)))
                return 0
        except TimeoutError as error:
            raise APIConnectionError(f"the first call got no answer within {wanted.timeout_s:g} s") from error

    async def measure() -> None:
        nonlocal interrupted
        words = await first_calls()
        run = Run(target.address, target.path, bodies(words), wanted, figures, streamed=target.streamed)

        def stop() -> None:
            nonlocal interrupted
            interrupted = True
            run.stop()
            loop.remove_signal_handler(signal.SIGINT)  # a second one ends it at once

        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows: Ctrl-C ends it without a report
            loop.add_signal_handler(signal.SIGINT, stop)
        await _shown(run, figures, live=not console.events and sys.stderr.isatty())

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(measure())
    except PromptFileError as error:
        fail(str(error), USAGE)
    return figures, interrupted


def _loop_factory() -> Any:
    """Return what makes uvloop's loop, if that is installed: it sends on time under more load."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _shown(run: Run, figures: Figures, *, live: bool) -> None:
    """Run it, with a line on the terminal that says how it goes."""
    from penstock.bench.report import live_line

    async def tell() -> None:
        while True:
            await asyncio.sleep(_LIVE_S)
            text = live_line(figures, time.perf_counter())[: shutil.get_terminal_size().columns - 1]
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    teller = asyncio.create_task(tell()) if live else None
    try:
        await run.run()
    finally:
        if teller is not None:
            teller.cancel()
            click.echo("\r\x1b[K", nl=False, err=True)


def tell(
    console: Console, figures: Figures, what: str, wanted: Load, target: Target, svg: Path | None
) -> None:
    """Print the report, and write the picture."""
    from penstock.bench.report import doubts, lines
    from penstock.bench.svg import picture

    now = time.perf_counter()
    load = f"{wanted.rate:g} calls/s" if wanted.rate else f"{wanted.concurrency} callers"
    title = f"{what}, {load}, {'streamed' if target.streamed else 'whole'}"
    if console.json:
        asked = {
            "url": what.rpartition(" at ")[2],
            "path": target.path,
            "model": target.common["model"],
            "streamed": target.streamed,
            "concurrency": None if wanted.rate else wanted.concurrency,
            "rate": wanted.rate,
            "warm_up_s": wanted.warm_up_s,
        }
        print_json({"load": asked, **figures.as_json(now), "doubts": list(doubts(figures, now))})
    else:
        click.echo(printable(title))
        for text in lines(figures, now, min(screen(100).width, 100)):
            click.echo(printable(text))
    if svg is not None:
        try:
            svg.write_text(picture(figures, title, now), encoding="utf-8")
        except OSError as error:
            fail(f"{svg} cannot be written: {error.strerror}", USAGE)
        note(f"the picture is in {svg}")
