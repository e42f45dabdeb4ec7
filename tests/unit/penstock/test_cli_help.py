"""The help of every command: its examples are command lines that parse, and nothing in it has an old name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import takewhile
from typing import NamedTuple

import click
import pytest

from penstock.cli.main import SECTIONS, cli
from tests.unit.penstock.double import ID
from tests.unit.penstock.test_cli import run

FILES = (
    "prompts.txt",
    "reviews.csv",
    "request.json",
    "turn7.json",
    "openai-batch.jsonl",
    "out.jsonl",
    "prompt.txt",
    "edge.key",
    "lab-ca.pem",
)
ENDS = {"|", "||", "&&", ";", ">", ">>", "<", ";;", "do", "done", "2>"}


class Command(NamedTuple):
    """A command of the tree, and how it is called."""

    path: str
    command: click.Command

    @property
    def examples(self) -> list[str]:
        """The lines of its examples."""
        _, _, after = (self.command.help or "").partition("Examples:\n")
        return [line.strip() for line in takewhile(str.strip, after.splitlines())]


def tree(command: click.Command = cli, path: str = "penstock") -> Iterator[Command]:
    yield Command(path, command)
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from tree(inner, f"{path} {name}")


ALL = list(tree())


def command_lines(line: str) -> list[list[str]]:
    """The words of each call of ``penstock`` in a shell's line; one that xargs calls has an id more."""
    lexer = shlex.shlex(re.sub(r"\$\((.*)\)", r"; \1", line), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words = list(lexer)
    found = []
    for at, word in enumerate(words):
        if word == "penstock":
            before = words[at - 1] if at else ""
            call = list(takewhile(lambda word: word not in ENDS, words[at + 1 :]))
            found.append([*call, ID] if before == "xargs" else call)
    return found


def parsed(words: list[str]) -> str:
    """Parse a command line as it would be run, without running it; return the command's path."""
    with ExitStack() as opened:
        ctx = cli.make_context("penstock", list(words))
        while isinstance(ctx.command, click.Group):
            name, command, rest = ctx.command.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
            assert command is not None
            ctx = opened.enter_context(command.make_context(name, rest, parent=ctx))
        return ctx.command_path


@pytest.mark.parametrize("command", ALL, ids=lambda one: one.path)
def test_every_example_parses(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).write_text("{}")
    examples = command.examples
    assert examples
    called = [words for line in examples for words in command_lines(line)]
    paths = [parsed(words) for words in called]
    assert capsys.readouterr() == ("", ""), "an old name"
    if not isinstance(command.command, click.Group):
        assert command.path in paths


def test_the_examples_are_found():
    assert command_lines("penstock jobs list --json | jq -r .id | xargs penstock jobs wait") == [
        ["jobs", "list", "--json"],
        ["jobs", "wait", ID],
    ]
    assert command_lines("new=$(penstock jobs retry job_1 --json | jq -r .id)") == [
        ["jobs", "retry", "job_1", "--json"]
    ]
    assert command_lines("until penstock status --health > /dev/null; do sleep 1; done") == [
        ["status", "--health"]
    ]
    with pytest.raises(click.UsageError):
        parsed(["jobs", "list", "--no-such"])


@pytest.mark.parametrize("command", ALL, ids=lambda one: one.path)
def test_every_help_is_shown(command):
    done = run("http://127.0.0.1:9", *command.path.split()[1:], "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {command.path} ")
    assert not [line for line in done.stdout.partition("Commands:")[2].splitlines() if line.endswith("...")]


def test_the_first_help_has_every_command_and_its_own_first_words():
    shown = run("http://127.0.0.1:9", "--help").stdout
    for name, (_, text) in ((name, it) for section in SECTIONS.values() for name, it in section.items()):
        assert re.search(rf"^  {name} +{re.escape(text)}$", shown, re.MULTILINE), name


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("jbos",), "penstock jobs"),
        (("jobs", "lsit"), "penstock jobs list"),
        (("queue", "ps"), "penstock queue list"),
        (("files", "rm"), "penstock files delete"),
        (("drain",), "penstock worker drain"),
        (("jobs", "mvoe", ID), "penstock jobs move"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(typed, meant):
    done = run("http://127.0.0.1:9", *typed)
    assert (
        done.returncode,
        f"There is no command {typed[-1 if typed[-1] != ID else -2]!r}" in done.stderr,
    ) == (2, True)
    assert f"Did you mean '{meant}'" in done.stderr


def test_what_comes_near_nothing_is_only_refused():
    done = run("http://127.0.0.1:9", "xyzzy")
    assert (done.returncode, "Did you mean" in done.stderr) == (2, False)
