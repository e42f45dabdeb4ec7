"""Start-up failures, as one message for the person who typed the command."""

from __future__ import annotations

from collections.abc import Callable

import click
import pydantic
from pydantic_settings import SettingsError

from broker.sources import PREFIX, given
from jobs.names import in_words
from penstock.server.names import check_names
from penstock.server.settings import fields

_START_ERROR = "StartError"


class UpStartError(Exception):
    """``penstock up`` cannot start. The message says why and what to do."""


class WorkersStartError(Exception):
    """One of several workers did not come up. The message carries its own last words."""


class CommandFailed(click.ClickException):
    """Shown as ``penstock <command>: <message>`` on stderr; exit status 1."""

    def __init__(self, command: str, message: str) -> None:
        super().__init__(message)
        self.command = command

    def show(self, file: object = None) -> None:
        """Print the message."""
        del file
        click.echo(f"penstock {self.command}: {self.message}", err=True)


def starting(command: str, body: Callable[[], object], *, names: bool = True) -> None:
    """Run a command's body and turn what stops its start into one message.

    That is a bad setting (pydantic's ValidationError), a source of settings that cannot be read, and any exception whose
    class is named ``...StartError`` (by name: who raises them need not be imported here), such as that of an unknown
    setting. All else keeps its traceback.

    Args:
        command: the speaker of the message.
        body: is called.
        names: check the names of settings first.

    Raises:
        CommandFailed: in the place of those.
    """
    try:
        if names:
            check_names()
        body()
    except pydantic.ValidationError as error:
        raise CommandFailed(command, bad_settings(error)) from error
    except SettingsError as error:
        raise CommandFailed(command, f"the settings cannot be read: {error}") from error
    except Exception as error:
        if type(error).__name__.endswith(_START_ERROR):
            raise CommandFailed(command, str(error)) from error
        raise


def bad_settings(error: pydantic.ValidationError) -> str:
    """Name each bad setting with what is wrong with it, and its value if that cannot hold a secret."""
    problems = []
    for found in error.errors(include_url=False):
        name = str(found["loc"][0]).lower().removeprefix(PREFIX.lower()) if found["loc"] else "settings"
        where = " or ".join([*_option(name), f"{PREFIX}{name.upper()}"])
        it_is = given(fields().get(name), found)
        problems.append(f"bad setting {name} ({where}): {in_words(found)}{it_is}")
    return "; ".join(problems)


def _option(setting: str) -> list[str]:
    """The option that sets a setting, where the command that is running has one."""
    context = click.get_current_context(silent=True)
    params = context.command.params if context else []
    return [param.opts[0] for param in params if param.name == setting]
