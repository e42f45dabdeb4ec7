"""One run of ``penstock batch run``: where it runs, what it keeps, how it is stopped and resumed."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from penstock.cli._exits import INTERRUPTED, JOB_NOT_OK, UNREACHABLE, USAGE, fail, note
from penstock.cli._run import Console, default_model, server_is_installed

if TYPE_CHECKING:
    from penstock.batch_models import Batch
    from penstock.bulk.check import Verdict
    from penstock.bulk.run import Order
    from penstock.bulk.workdir import Workdir
    from penstock.cli.batch_options import Making
    from penstock.cli.batch_screen import Screen
    from penstock.errors import PenstockError

_EMBEDDED_WINDOW = "365d"
"""An embedded run has no deadline: it may be stopped on Friday and resumed a week later."""

_CURABLE = frozenset({401, 403, 408, 409, 429})
"""Refusals that another key, or another moment, may cure."""


class Terminated(BaseException):
    """SIGTERM or SIGHUP: as Ctrl-C, with another exit code."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """The command line, apart from how rows are made."""

    source: str | None
    target: Path
    errors: Path
    ordered: bool
    resume: bool
    overwrite: bool
    embedded: bool
    up: tuple[str, ...]
    engine: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run, from the command line to the files."""

    console: Console
    ask: Ask
    made: Making
    how: Order
    screen: Screen
    window: str | None

    def go(self) -> tuple[Batch, Verdict, Path, float]:
        """Do it all. Raises SystemExit if it was stopped."""
        from penstock.bulk.problems import InputError
        from penstock.bulk.workdir import Workdir

        ask = self.ask
        folder = ask.target.with_name(ask.target.name + ".penstock")
        there = (folder / "state.json").exists()
        if ask.resume and not there and ask.target.exists():
            raise InputError(f"nothing to resume: {ask.target} is complete")
        if not ask.resume and not ask.overwrite:
            if there and Workdir.was_sent(folder):
                raise InputError(
                    f"{folder} holds an unfinished run: continue it with --resume, or replace it with --overwrite"
                )
            if ask.target.exists():
                raise InputError(f"{ask.target} already exists; --overwrite replaces it")
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
        from penstock._core.batch_flows import ended
        from penstock.bulk import outputs
        from penstock.bulk.problems import InputError
        from penstock.bulk.run import collect, submit
        from penstock.errors import PenstockError

        began = time.monotonic()
        state, ask = workdir.state, self.ask
        self._place(workdir)
        asked = {"source": ask.source and str(Path(ask.source).absolute())}
        asked |= dataclasses.asdict(self.made.recipe)
        if not workdir.started:
            state.asked["rows"] = asked
            self._read(workdir)
        elif ask.source is not None and state.asked.get("rows") != asked:
            raise InputError("the unfinished run has another input or other options; --overwrite replaces it")
        self.screen.total = state.rows
        how = self.how
        if state.embedded and self.window is None:
            how = dataclasses.replace(how, window=_EMBEDDED_WINDOW)
        with self._server(workdir) as url, self.console.client(url, self.screen.retrying) as client:
            try:
                batch = submit(client, workdir, how, self.screen)
            except PenstockError as exc:
                self._keep_or_remove(workdir, exc)
                raise
            batch = collect(client, workdir, how, self.screen)
        if batch.status == "failed":
            workdir.remove()
            fail(ended(batch), JOB_NOT_OK)
        verdict = outputs.write(
            workdir, ask.target, ask.errors, ordered=ask.ordered, report=self.screen.writing
        )
        if verdict.ok:
            workdir.remove()
        return batch, verdict, workdir.path, time.monotonic() - began

    def _keep_or_remove(self, workdir: Workdir, exc: PenstockError) -> None:
        """Keep the rows of a batch that was not accepted, and say how to resume, unless that would be refused again."""
        from penstock.errors import APIStatusError

        if isinstance(exc, APIStatusError) and exc.code == "lane_not_allowed":
            workdir.remove()  # a resumed run would ask for the same lane
            exc.add_note("choose another lane with --priority LANE")
        elif workdir.state.batch_id is None:
            if isinstance(exc, APIStatusError) and exc.status < 500 and exc.status not in _CURABLE:
                workdir.remove()  # refused: there is nothing to resume
            elif self._resumable:
                note(f"The rows are kept in {workdir.path}.\n  resume: {again(self.ask)}")

    def _place(self, workdir: Workdir) -> None:
        """Decide where it runs; a resumed run has decided that before."""
        from penstock.errors import APIConnectionError

        state, named = workdir.state, self.console.named_url
        if workdir.started:
            state.url = self.console.url or state.url
            if self.ask.up:
                state.asked["up"] = list(self.ask.up)
            return
        state.asked["up"] = list(self.ask.up)
        if self.ask.embedded:
            state.embedded = True
            return
        if named:
            state.url = named
            return
        with self.console.client() as client:
            try:
                client.health()
                state.url = client.base_url
            except APIConnectionError:
                if not server_is_installed():
                    fail(
                        f"no server answers at {client.base_url}; name one with --url, or install the server to run"
                        " everything here",
                        UNREACHABLE,
                    )
                state.embedded = True
                self.screen.say(
                    f"No server answers at {client.base_url} and none was named: running everything here (--embedded).",
                    event="embedded",
                    reason="no server answers",
                )

    def _read(self, workdir: Workdir) -> None:
        """Convert the input into rows, and note their number, endpoint and model."""
        from penstock.bulk.convert import convert
        from penstock.bulk.problems import InputError
        from penstock.bulk.source import opened

        state = workdir.state
        if self.ask.source is None:
            raise InputError("there is no run to resume here: name the INPUT")
        with opened(self.ask.source) as source:
            made = self.made.of(source, lambda: self._default_model(state.embedded))
            result = convert(
                source,
                workdir.input,
                made.recipe,
                kind=made.kind,
                delimiter=made.delimiter,
                report=lambda rows, done: self.screen.reading(rows, done, source.size),
            )
        state.kind, state.rows = result.kind, result.rows
        state.endpoint, state.model = result.endpoint, result.model
        workdir.save()
        self.screen.say(
            f"{source.name}: {result.rows:,} rows ({result.kind}), model {result.model}",
            event="read",
            rows=result.rows,
            format=result.kind,
            model=result.model,
        )

    def _default_model(self, embedded: bool) -> str:  # noqa: FBT001 - one flag
        from penstock.bulk.problems import InputError

        if not embedded:
            with self.console.client() as client:
                return default_model(client)
        if self.ask.engine == "simulated":
            return "simulated"
        raise InputError(
            "name the model to run with --model (hub name or path; tiny-random generates nonsense, for a trial)"
        )

    @contextmanager
    def _server(self, workdir: Workdir) -> Iterator[str | None]:
        """Give the server's address; an embedded one runs meanwhile."""
        state = workdir.state
        if not state.embedded:
            yield state.url
            return
        try:
            from penstock.server.embedded import EmbeddedStack
            from penstock.server.errors import UpStartError
        except ModuleNotFoundError as exc:
            if state.batch_id is None:
                workdir.remove()
            fail(f"--embedded needs the server's packages (no module {exc.name!r} here)", USAGE)
        options = list(state.asked.get("up", []))
        if state.model != "tiny-random" and not ("simulated" in options and state.model == "simulated"):
            options += ["--model", state.model]
        options += ["--drain-timeout-s", "5"]
        self.screen.starting("queue, api and worker")
        stack = EmbeddedStack((workdir.path / "server").absolute(), options, self.screen.starting)
        try:
            with stack:
                yield stack.url
        except UpStartError as exc:
            if state.batch_id is None and str(workdir.path) not in str(exc):  # else its logs are there
                workdir.remove()
            fail(f"the embedded server did not start: {exc}", UNREACHABLE)

    @property
    def _resumable(self) -> bool:
        """Whether the folder outlives the command; that of an output to stdout does not."""
        target = self.ask.target
        return target.parent.exists() and not str(target).startswith(tempfile.gettempdir() + "/penstock-")

    def _stopped(self, workdir: Workdir, exc: BaseException) -> NoReturn:
        """Say what was kept and how to resume, and exit."""
        state = workdir.state
        kept = f"{state.received:,} of {state.rows:,} rows were received"
        if not workdir.started:
            lines = ["\nStopped; nothing was sent."]
        elif state.embedded:
            lines = [f"\nStopped; {kept}. The others wait until you resume."]
        elif state.batch_id:
            lines = [f"\nStopped watching; {kept}, and the batch continues."]
        else:
            lines = ["\nStopped; the rows were not submitted yet."]
        if workdir.started and self._resumable:
            lines.append(f"  resume: {again(self.ask)}")
        if state.batch_id and not state.embedded:
            lines.append(f"  cancel: penstock batch cancel {state.batch_id}")
        note("\n".join(lines))
        raise SystemExit(128 + exc.signum if isinstance(exc, Terminated) else INTERRUPTED)


def again(ask: Ask) -> str:
    """Return the command that resumes a run. The options that shaped its rows are kept, its files are not."""
    words = ["penstock", "batch", "run", "-o", str(ask.target)]
    if ask.errors != beside(ask.target):
        words += ["--errors", str(ask.errors)]
    if not ask.ordered:
        words += ["--order", "finished"]
    return shlex.join([*words, "--resume"])


def beside(path: Path) -> Path:
    """Return the default file for failed rows: ``out.errors.jsonl`` for ``out.jsonl``."""
    return path.with_name(f"{path.stem}.errors{path.suffix}")
