"""A batch's files, for calls that cannot do without them."""

from __future__ import annotations

from api.http.errors import ApiError
from broker.files import FileStore
from jobs.batch_model import Batch, File

INPUT, OUTPUT, ERROR = "input", "output", "error"


async def needed(files: FileStore, batch: Batch, *kinds: str) -> dict[str, File]:
    """Return a batch's files of these kinds, without those that it never had.

    Raises:
        ApiError: 410, one was deleted or has expired.
    """
    ids = {INPUT: batch.input_file_id, OUTPUT: batch.output_file_id, ERROR: batch.error_file_id}
    found: dict[str, File] = {}
    for kind in kinds:
        ident = ids[kind]
        if ident is None:
            continue
        file = await files.get(ident)
        if file is None:
            message = f"the {kind} file of {batch.id}, {ident}, was deleted or has expired"
            raise ApiError(410, message, "file_gone", param="batch_id")
        found[kind] = file
    return found
