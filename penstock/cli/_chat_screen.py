"""The terminal of ``penstock chat``: lines in, commands, answers as they come."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli._answer import Answer
from penstock.cli._conversation import Conversation, ConversationError
from penstock.cli._exits import message_of, note
from penstock.cli._run import Console
from penstock.cli._table import printable
from penstock.cli._waiting import Waiting

if TYPE_CHECKING:
    from penstock.client import Penstock

_BLOCK = '"""'
_COMMAND = re.compile(r"/[a-z]*")
"""A word that looks like a command, so that a mistyped one is not sent; ``/etc/hosts`` and ``//`` are no commands."""

_HISTORY_LINES = 1000

_COMMANDS = {
    "/help": "list the commands",
    "/model [NAME]": "list the models, or talk with another one",
    "/system [TEXT]": "show the instructions, or set them; - removes them",
    "/image FILE": "show an image with the next message",
    "/retry": "have the last message answered again",
    "/clear": "forget what was said",
    "/save FILE": "write the conversation; penstock submit --input takes it too",
    "/load FILE": "continue a saved conversation",
    "/stats": "tokens and times of the last answer",
    "/exit": "leave, as Ctrl-D does",
}


class ChatScreen:
    """A conversation on a terminal.

    Args:
        console: how the server is reached.
        client: who is asked.
        conversation: how it begins.
        extra: further fields of each request.
        stats: say tokens and times after each answer.
    """

    def __init__(
        self,
        console: Console,
        client: Penstock,
        conversation: Conversation,
        extra: dict[str, Any],
        *,
        stats: bool,
    ) -> None:
        self._console, self._client = console, client
        self._talk = conversation
        self._extra = extra
        self._stats = stats
        self._last: Answer | None = None
        self._dim = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def run(self) -> None:
        """Talk until the user leaves."""
        history = _History()
        note(f"talking with {printable(self._talk.model)}; /help lists the commands, Ctrl-D leaves")
        while True:
            try:
                if not self._turn():
                    break
            except KeyboardInterrupt:  # at the prompt, or a second one just after an answer was stopped
                note("\n(Ctrl-D or /exit leaves)")
        history.save()

    def _turn(self) -> bool:
        """Read a message or a command, and act on it; return whether the conversation continues."""
        try:
            text = self._message()
        except EOFError:
            click.echo(err=True)
            return False
        name, _, argument = text.partition(" ")
        if "\n" not in text and _COMMAND.fullmatch(name):
            if name in {"/exit", "/quit"}:
                return False
            self._command(name, argument)
        elif text.strip():
            self._talk.ask(text[1:] if text.startswith("//") else text)
            self._answer()
        return True

    def _message(self) -> str:
        """Read a message: a line, lines that end in a backslash, or a block between two lines of quotes."""
        line = _line("> ")
        if line.strip() == _BLOCK:
            lines = []
            while (line := _line(". ")).strip() != _BLOCK:
                lines.append(line)
            return "\n".join(lines)
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(_line(". "))
        return "\n".join(lines)

    def _answer(self) -> None:
        """Have the last message answered, and show the answer as it comes. Ctrl-C stops this answer only."""
        from penstock.errors import PenstockError

        answer = self._last = Answer()
        thinking = False

        def show(piece: str, thought: bool) -> None:  # noqa: FBT001 - as Answer.read calls it
            nonlocal thinking
            line.stop()
            if thinking and not thought:
                click.echo("\n")
            thinking = thought
            piece = printable(piece)
            click.echo(click.style(piece, dim=True) if thought and self._dim else piece, nl=False)
            sys.stdout.flush()

        line = Waiting(self._console, shown=True)
        try:
            try:
                on_accepted = line.follow if line.shown else None
                asked = self._client.chats.stream(self._talk.body() | self._extra, on_accepted=on_accepted)
                with line, closing(asked) as chunks:
                    answer.read(chunks, show)
            finally:
                self._talk.answered("".join(answer.text))
            click.echo()
        except KeyboardInterrupt:
            note("\n[stopped; /retry asks again]")
        except PenstockError as error:
            note(
                ("\n" if answer.first_s is not None else "")
                + f"penstock: {message_of(error)}; /retry asks again"
            )
        if self._stats and answer.first_s is not None:
            note(click.style(answer.summary(), dim=True))

    def _command(self, name: str, argument: str = "") -> None:
        from penstock.errors import PenstockError

        known: dict[str, Callable[[str], None]] = {
            "/help": self._help,
            "/model": self._model,
            "/system": self._system,
            "/image": self._image,
            "/retry": self._retry,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/stats": self._say_stats,
        }
        act = known.get(name)
        if act is None:
            note(
                f"there is no command {printable(name)}; /help lists them, and // begins a message with a slash"
            )
            return
        try:
            act(argument.strip())
        except ConversationError as error:
            note(str(error))
        except PenstockError as error:
            note(f"penstock: {message_of(error)}")

    def _help(self, _: str) -> None:
        width = max(map(len, _COMMANDS))
        for name, text in _COMMANDS.items():
            note(f"  {name:{width}}  {text}")
        note(f"  A \\ at the end of a line continues it; lines between two lines {_BLOCK} are one message.")
        note("  Two slashes begin a message that begins with one.")

    def _model(self, name: str) -> None:
        names = [model.id for model in self._client.models()]
        if not name:
            for one in names:
                note(f"{'*' if one == self._talk.model else ' '} {printable(one)}")
        elif name in names:
            self._talk.model = name
            note(f"talking with {printable(name)} from here on")
        else:
            note(f"the server has no model {printable(name)}; it has {printable(', '.join(names)) or 'none'}")

    def _system(self, text: str) -> None:
        if text:
            self._talk.system = None if text == "-" else text
        note(f"instructions: {printable(self._talk.system)}" if self._talk.system else "no instructions")

    def _image(self, name: str) -> None:
        if not name:
            note("which? /image FILE")
        elif self._takes_images() is False:
            note(f"{printable(self._talk.model)} takes no images; /model lists the others")
        else:
            self._talk.attach(Path(name).expanduser())
            note(f"it goes with your next message ({len(self._talk.images)} so far)")

    def _takes_images(self) -> bool | None:
        """Whether the model takes images; None: the server does not say."""
        for model in self._client.models():
            if model.id == self._talk.model:
                able = ((model.model_extra or {}).get("penstock") or {}).get("capabilities")
                return None if able is None or "images" not in able else bool(able["images"])
        return None

    def _retry(self, _: str) -> None:
        if self._talk.ask_again():
            self._answer()
        else:
            note("nothing was asked yet")

    def _clear(self, _: str) -> None:
        self._talk.clear()
        note("forgotten")

    def _save(self, name: str) -> None:
        path = Path(name).expanduser() if name else self._talk.file
        if path is None:
            note("where to? /save FILE")
            return
        self._talk.save(path)
        note(f"saved to {path}")

    def _load(self, name: str) -> None:
        if not name:
            note("which? /load FILE")
            return
        self._talk.load(Path(name).expanduser())
        said = len(self._talk.messages)
        note(f"{said} messages, with {printable(self._talk.model)}")

    def _say_stats(self, _: str) -> None:
        note("there was no answer yet" if self._last is None else self._last.summary())


def _line(prompt: str) -> str:
    """Read a line. The prompt is no part of the output if that goes to a file."""
    if sys.stdout.isatty():
        return input(prompt)
    click.echo(prompt, nl=False, err=True)
    return input()


class _History:
    """The lines typed before, which readline's arrow keys bring back; nothing where Python has no readline."""

    def __init__(self) -> None:
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        self._path = Path(state).expanduser() / "penstock" / "chat_history"
        try:
            import readline
        except ImportError:
            self._readline = None
            return
        self._readline = readline
        readline.set_history_length(_HISTORY_LINES)
        with suppress(OSError):
            readline.read_history_file(self._path)

    def save(self) -> None:
        """Write them, for this user alone. A folder that cannot be written costs the history, not the chat."""
        if self._readline is None:
            return
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._readline.write_history_file(self._path)
            self._path.chmod(0o600)
