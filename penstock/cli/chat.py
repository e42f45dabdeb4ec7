"""``penstock chat``: a conversation in the terminal, or one message from a pipe."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import option

from penstock.cli._answer import Answer
from penstock.cli._conversation import Conversation, ConversationError
from penstock.cli._exits import EXIT_CODES, USAGE, fail, note
from penstock.cli._names import models
from penstock.cli._output import live
from penstock.cli._parse import SYSTEM, TEMPERATURE, prompt_on_stdin
from penstock.cli._run import Console, client_command, default_model, print_json
from penstock.cli._waiting import Waiting

if TYPE_CHECKING:
    from penstock.client import Penstock


@click.command("chat", epilog=EXIT_CODES)
@option(
    "-m",
    "--model",
    shell_complete=models,
    help="Served name.  [env: PENSTOCK_CLIENT_MODEL; default: the first that is served]",
)
@SYSTEM
@option("--max-tokens", type=click.IntRange(min=1), help="The most tokens of an answer.")
@TEMPERATURE
@option(
    "--load", "saved", type=click.Path(path_type=Path), metavar="FILE", help="Continue a saved conversation."
)
@option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Show it; may be repeated.",
)
@option("--stats", is_flag=True, help="Say tokens and times after each answer.")
@client_command
def chat(
    console: Console,
    *,
    model: str | None,
    system: str | None,
    saved: Path | None,
    images: tuple[Path, ...],
    stats: bool,
    **sampling: Any,
) -> None:
    """Talk with a model: each answer is shown as it is generated.

    \b
    Examples:
      penstock chat
      penstock chat --model Qwen/Qwen3-8B --system "Answer in one sentence."
      penstock chat --image photo.png
      git diff | penstock chat --system "Write a commit message." > message.txt
      penstock chat --json < question.txt | jq -r .content

    On a terminal: Ctrl-C stops an answer, Ctrl-D leaves, and /help lists the commands. A line that ends in a
    backslash continues on the next one, and lines between two lines of three double quotes are one message.

    From a pipe: all of stdin is one message, and stdout gets the answer's text; with --json it gets one object.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        conversation = Conversation(model or "")
        try:
            if saved is not None:
                conversation.load(saved)
            for path in images:
                conversation.attach(path)
        except ConversationError as error:
            fail(str(error), USAGE)
        conversation.model = model or conversation.model
        conversation.system = conversation.system if system is None else system
        extra = {name: value for name, value in sampling.items() if value is not None}
        if sys.stdin is not None and sys.stdin.isatty():
            from penstock.cli._chat_screen import ChatScreen  # readline need not be there for a pipe

            conversation.model = conversation.model or default_model(client)
            ChatScreen(console, client, conversation, extra, stats=stats).run()
            return
        conversation.ask(prompt_on_stdin("run it on a terminal"))
        conversation.model = conversation.model or default_model(client)
        _once(console, client, conversation, extra, stats=stats)


def _once(
    console: Console, client: Penstock, conversation: Conversation, extra: dict[str, Any], *, stats: bool
) -> None:
    """Answer one message. Raises PenstockError."""
    answer = Answer()

    def show(piece: str, thought: bool) -> None:  # noqa: FBT001 - as Answer.read calls it
        if not (thought or console.events):
            line.stop()
            live(piece)

    with Waiting(console, shown=not console.events) as line:
        on_accepted = line.follow if line.shown else None
        asked = client.chats.stream(conversation.body() | extra, on_accepted=on_accepted)
        with closing(asked) as chunks:
            answer.read(chunks, show)
    if console.events:
        print_json(answer.as_json(conversation.model))
    elif not "".join(answer.text).endswith("\n"):
        click.echo()
    if stats:
        note(answer.summary())
