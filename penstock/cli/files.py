"""``penstock files``: the files on the server, inputs and outputs of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, note
from penstock.cli._group import Group
from penstock.cli._parse import FILE, FILES, duration, output_file
from penstock.cli._partial import Partial
from penstock.cli._run import Console, client_command, each, limit_options, print_json
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from penstock.client import Penstock

_SAVE_EVERY_BYTES = 1 << 20


@click.group("files", cls=Group)
def files() -> None:
    """Files on the server: inputs and outputs of batches.

    \b
    Examples:
      penstock files list
      penstock files upload openai-batch.jsonl
      penstock files download file-0199... -o answers.jsonl
      penstock files delete file-0199...
    """  # noqa: D301  # \b is click's mark


@files.command("list", epilog=EXIT_CODES)
@option("--purpose", metavar="NAME", help="Only these: batch, batch_output.")
@limit_options
@client_command
def list_files(console: Console, *, purpose: str | None, limit: int | None) -> None:
    """List files, newest first.

    \b
    Examples:
      penstock files list
      penstock files list --purpose batch --all --json | jq -r .id
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.files.list(purpose=purpose, limit=limit), output.files_table)


@files.command("get", epilog=EXIT_CODES)
@FILE
@client_command
def get(console: Console, *, file_id: str) -> None:
    """Show a file's name, size and times.

    \b
    Examples:
      penstock files get file-0199... --json | jq .bytes
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.files.get(file_id), lambda file: output.files_table([file]))


@files.command("upload", epilog=EXIT_CODES)
@argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@option("--purpose", default="batch", show_default=True, metavar="NAME", help="Its use.")
@option("--expires-in", type=duration, metavar="TIME", help="Delete it after, for example, 7d.")
@client_command
def upload(console: Console, *, path: str, purpose: str, expires_in: float | None) -> None:
    """Upload a file as it is, such as OpenAI batch rows. To make rows of other files, use: penstock batch submit.

    \b
    Examples:
      penstock files upload openai-batch.jsonl
      id=$(penstock files upload openai-batch.jsonl --json | jq -r .id)
    """  # noqa: D301  # \b is click's mark
    expires_after_s = None if expires_in is None else int(expires_in)
    with console.client() as client:
        sent = client.files.upload(path, purpose=purpose, expires_after_s=expires_after_s)
    console.show(sent, lambda file: output.files_table([file]))


@files.command("download", epilog=EXIT_CODES)
@FILE
@option(
    "-o", "--output", "target", type=output_file, metavar="FILE", help="Where to write it; default: stdout."
)
@option("--overwrite", is_flag=True, help="Replace an existing file.")
@client_command
def download(console: Console, *, file_id: str, target: str | None, overwrite: bool) -> None:
    """Download a file's content. A dropped connection resumes where it stopped, and so does the same command later.

    \b
    Examples:
      penstock files download file-0199... -o answers.jsonl
      penstock files download file-0199... | jq -r .custom_id
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if target in {None, "-"}:
            with output.writing(None, overwrite=overwrite) as out:
                for piece in client.files.content(file_id):
                    out.write(piece)
            return
        with Partial([str(target)], file_id, overwrite=overwrite) as partial:
            received = _download(client, file_id, partial)
            partial.finish()
    note(f"{target}: {received:,} bytes")


def _download(client: Penstock, file_id: str, partial: Partial) -> int:
    """Fetch what is missing of a file, and return its length."""
    (out,) = partial.files
    saved = out.tell()
    try:
        for piece in client.files.content(file_id, saved):
            out.write(piece)
            if out.tell() - saved >= _SAVE_EVERY_BYTES:
                saved = out.tell()
                partial.save(received=saved)
    except (KeyboardInterrupt, PenstockError):
        if out.tell():
            partial.save(received=out.tell())
        raise
    return out.tell()


@files.command("delete", epilog=EXIT_CODES_OF_MANY)
@FILES
@client_command
def delete(console: Console, *, file_ids: tuple[str, ...]) -> None:
    """Delete files.

    \b
    Examples:
      penstock files delete file-0199...
    """  # noqa: D301  # \b is click's mark

    def act(one: str) -> None:
        deleted = client.files.delete(one)
        if console.json:
            print_json({"id": one, "deleted": deleted})
        else:
            click.echo(f"{one} {'deleted' if deleted else 'was not deleted'}")

    with console.client() as client:
        each(file_ids, act)
