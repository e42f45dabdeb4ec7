"""The first step of a batch: reads its input once, line by line, in constant memory, checks it and cuts it into chunks."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from broker.catalogue import Catalogue
from broker.models import Model
from broker.tenants import TenantStore
from coordinator.context import ChangedError, Context
from coordinator.digests import Digests, same_id, tag_of
from jobs.abilities import asks, lack
from jobs.batch_keys import plan_key
from jobs.batch_model import Batch
from jobs.batch_rows import RowError, RowErrorCode, Rules, check_line, read_row, unknown_parameters
from jobs.batches import BatchStatus, Chunk, Cutter
from jobs.row_fields import UnknownFields
from storage import MissingObjectError
from storage.base import read_all, read_lines

MOST_ERRORS = 100
"""Errors of a file that are reported: the first ones."""

_RECORD = struct.Struct("<QQQQ")
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Validated:
    """A good input: its model, its rows, how it is cut, and its unknown fields with the first line of each."""

    model: str
    rows: int
    chunks: list[Chunk]
    unknown_fields: dict[str, int]


async def validate(context: Context, batch: Batch) -> Validated | list[RowError]:
    """Read and check a batch's input.

    Raises:
        ChangedError: the batch was cancelled meanwhile.
        StorageError: the input cannot be read now.
    """
    reading = _Reading(context, batch)
    try:
        await reading.read()
        return await reading.result()
    except MissingObjectError:
        return [RowError(RowErrorCode.INVALID_REQUEST, "the input file is gone", None, "input_file_id")]
    finally:
        reading.digests.close()


class _Reading:
    def __init__(self, context: Context, batch: Batch) -> None:
        self._context, self._batch = context, batch
        self._rules = Rules(batch.endpoint)
        self._fields = UnknownFields(batch.endpoint)
        self._model_line = 0
        self._cutter = Cutter(context.settings.batch_chunk_rows)
        self._errors: list[RowError] = []
        self._rows = 0
        self._looked = time.monotonic()
        self._models: list[Model] | None = None
        self.digests = Digests()

    async def read(self) -> None:
        number = 0
        try:
            async for offset, lines in read_lines(self._context.storage, self._batch.input_key):
                at = offset
                for line in lines:
                    number += 1
                    end = at + len(line) + 1
                    if line and not line.isspace():
                        self._take(line, number, at, end)
                        if self._models is None and self._rules.model is not None:
                            self._models = await self._served(self._rules.model)
                        self._check_abilities(line, number)
                    at = end
                if len(self._errors) >= MOST_ERRORS:
                    return
                await self._look()
        except ValueError as error:  # the line is too long for memory
            self._errors.append(RowError(RowErrorCode.INVALID_JSON_LINE, str(error), number + 1))

    def _take(self, line: bytes, number: int, at: int, end: int) -> None:
        found = check_line(line, number, self._rules, self._fields)
        self._rows += 1
        if isinstance(found, RowError):
            if len(self._errors) < MOST_ERRORS:
                self._errors.append(found)
            return
        custom_id, model = found
        if self._rules.model is None:
            self._rules, self._model_line = Rules(self._batch.endpoint, model), number
        self.digests.add(custom_id, number)
        self._cutter.add(at, end, number)

    async def _served(self, name: str) -> list[Model]:
        """Return the batch's model in each of its pools."""
        catalogue = Catalogue(self._context.store)
        await catalogue.refresh()
        return [one for one in catalogue.ranked(name) if one.open_to(self._batch.tenant)]

    def _check_abilities(self, line: bytes, number: int) -> None:
        """Note a row that no pool's model can do."""
        if not self._models or len(self._errors) >= MOST_ERRORS or not asks(line):
            return
        try:
            request = msgspec.json.decode(read_row(line).body)
        except ValueError:  # it is noted already
            return
        found = [lack(model.capabilities, self._batch.endpoint, request) for model in self._models]
        if (one := found[0]) is not None and all(found):
            message = f"the model {self._models[0].name!r} cannot do this: {one.sentence}"
            self._errors.append(RowError(RowErrorCode.UNSUPPORTED, message, number, f"body.{one.param}"))

    async def _look(self) -> None:
        """Stop if the batch was cancelled."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        now = await self._context.batches.get(self._batch.id)
        if now is None or now.status is not BatchStatus.VALIDATING:
            raise ChangedError

    async def result(self) -> Validated | list[RowError]:
        limit = self._context.settings.batch_max_rows
        if not self._rows and not self._errors:
            return [RowError(RowErrorCode.EMPTY_FILE, "the input file has no requests")]
        if limit is not None and self._rows > limit:
            message = f"the file has more than {limit} requests (setting batch_max_rows)"
            return [RowError(RowErrorCode.INVALID_REQUEST, message)]
        await self._find_duplicates()
        if self._rules.model is not None:
            await self._find_model(self._rules.model)
        if self._batch.strict:
            self._errors += unknown_parameters(self._batch.endpoint, self._fields.found)
        if self._errors:
            return sorted(self._errors, key=lambda error: error.line or 0)[:MOST_ERRORS]
        return Validated(self._rules.model or "", self._rows, self._cutter.chunks(), self._fields.found)

    async def _find_duplicates(self) -> None:
        found: list[tuple[int, int]] = []
        for records in self.digests.partitions():
            for one, other in itertools.pairwise(records):
                if same_id(one, other):
                    found.append((tag_of(other), tag_of(one)))
            found = sorted(found)[:MOST_ERRORS]
            await asyncio.sleep(0)  # a partition of a large input takes long; let other tasks run
        for line, earlier in found:
            message = f"the custom_id was used before, in line {earlier}"
            self._errors.append(RowError(RowErrorCode.DUPLICATE_CUSTOM_ID, message, line, "custom_id"))

    async def _find_model(self, model: str) -> None:
        catalogue = Catalogue(self._context.store)
        await catalogue.refresh()
        pools = [one for one in catalogue.ranked(model) if one.open_to(self._batch.tenant)]
        real = catalogue.real_name(model)
        message, code = "", RowErrorCode.INVALID_REQUEST
        allowed = (await TenantStore(self._context.store).get(self._batch.tenant)).models
        if not pools or not (allowed is None or real in map(catalogue.real_name, allowed)):
            message = f"the model {model[:100]!r} does not exist; GET /v1/models lists what there is"
            code = RowErrorCode.MODEL_NOT_FOUND
        elif all(one.broken for one in pools):
            message = (
                f"the model {model[:100]!r} is a LoRA adapter that no worker can load: {pools[0].broken}"
            )
            code = RowErrorCode.MODEL_NOT_FOUND
        elif real != model:  # the engine gets the rows unchanged
            message = f"{model!r} is an alias of {real!r}; a batch names the model itself"
        elif all(one.endpoints and self._batch.endpoint not in one.endpoints for one in pools):
            can = ", ".join(pools[0].endpoints)
            message = f"the model {model!r} does not do {self._batch.endpoint}; it does {can}"
        if message:
            self._errors.append(RowError(code, message, self._model_line, "body.model"))


async def write_plan(context: Context, batch_id: str, chunks: Iterable[Chunk]) -> str:
    """Write how a batch is cut; return the plan's name for its record.

    Every writing has a name of its own, so a coordinator that was frozen for longer than its lease cannot overwrite the
    plan that another one follows.
    """
    name = f"plan-{secrets.token_hex(8)}"
    data = b"".join(_RECORD.pack(c.offset, c.length, c.first_line, c.rows) for c in chunks)
    await context.storage.put(plan_key(batch_id, name), data)
    return name


async def read_plan(context: Context, batch: Batch) -> list[Chunk]:
    """Read the plan that a batch's record names."""
    data = await read_all(context.storage, plan_key(batch.id, batch.plan))
    return [Chunk(n, *fields) for n, fields in enumerate(_RECORD.iter_unpack(data))]
