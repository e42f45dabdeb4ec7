"""Batches end to end: the openai SDK, a real api, a real worker with the simulated engine, a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from broker.jobs import JobStore
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION
from tests.apiserver import ApiServer
from tests.batching import create, ended, jsonl, lines, row, upload
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_fair_queue import spec
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

OURS = {"priority", "progress", "paused", "pause_reason", "retry_of", "retried_as", "webhook_url", "warnings"}


def golden(batch: Any, **given: Any) -> dict[str, Any]:
    """Return the whole batch object that is expected; what is not given is null, or as it was created."""
    zero = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    times = ["in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": None,
        "errors": None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": batch.created_at,
        "expires_at": batch.created_at + 86_400,
        **{f"{name}_at": None for name in times},
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {**zero, **details},
        "metadata": None,
        "priority": "bulk",
        "progress": {"rows_per_s": None, "tokens_per_s": None, "eta_s": None},
        "paused": False,
        "pause_reason": None,
        "retry_of": None,
        "retried_as": None,
        "webhook_url": None,
        "warnings": [],
        **given,
    }


def stable(batch: Any) -> dict[str, Any]:
    """Return a batch object without its rates, which are measurements."""
    fields: dict[str, Any] = batch.to_dict()
    fields["progress"] = {"rows_per_s": None, "tokens_per_s": None, "eta_s": None}
    return fields


async def reaches(client: openai.AsyncOpenAI, batch_id: str, status: str) -> Any:
    async def there() -> Any:
        batch = await client.batches.retrieve(batch_id)
        return batch if batch.status == status else None

    return await eventually(there)


async def test_completed(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    created = await create(client, [row(n) for n in range(25)], metadata={"of": "tests"})
    assert created.to_dict() == golden(created, status="validating", metadata={"of": "tests"})
    batch = await ended(client, created.id)
    output = await lines(client, batch.output_file_id)
    answers = {line["custom_id"]: line for line in output}
    assert len(output) == 25
    assert set(answers) == {f"row-{n}" for n in range(25)}
    one = answers["row-3"]
    assert set(one) == {"id", "custom_id", "response", "error"}
    assert one["error"] is None
    assert set(one["response"]) == {"status_code", "request_id", "body"}
    assert one["response"]["status_code"] == 200
    assert one["response"]["body"]["object"] == "chat.completion"
    tokens = [line["response"]["body"]["usage"] for line in output]
    read, wrote = (sum(u[f"{kind}_tokens"] for u in tokens) for kind in ("prompt", "completion"))
    assert stable(batch) == golden(
        created,
        status="completed",
        model="simulated",
        metadata={"of": "tests"},
        output_file_id=batch.output_file_id,
        in_progress_at=batch.in_progress_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        request_counts={"total": 25, "completed": 25, "failed": 0},
        usage={
            **golden(created)["usage"],
            "input_tokens": read,
            "output_tokens": wrote,
            "total_tokens": read + wrote,
        },
    )
    assert created.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    file = await client.files.retrieve(batch.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert file.expires_at is None


async def test_a_chunk_costs_its_tenant_what_its_rows_used(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore
) -> None:
    """Not what they were thought to use. The lane is kept from being empty, so that it remembers its tenants' turns."""
    other = spec("other", lane=Lane.BULK)
    await store.accept(other)
    await store.client.hset(store.keys("job", other.id), "v", SCHEMA_VERSION + 1)
    await work()
    batch = await ended(client, (await create(client, [row(n, max_tokens=n + 1) for n in range(10)])).id)

    async def corrected() -> bool:
        turn = await store.client.hget(store.keys("tags", "default", Lane.BULK), "default")
        return turn is not None and int(turn) == 1000 * batch.usage.total_tokens

    await eventually(corrected)


async def test_failed_rows_are_told_by_line(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    good = row(1)
    rows = [
        good,
        "",
        "{nonsense",
        row(1),
        {**row(2), "url": "/v1/completions"},
        row(3, model="other"),
        {**row(4), "body": {"model": "simulated"}},
    ]
    created = await create(client, rows)
    batch = await ended(client, created.id)
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (3, "invalid_json_line", None),
        (4, "duplicate_custom_id", "custom_id"),
        (5, "url_mismatch", "url"),
        (6, "model_mismatch", "body.model"),
        (7, "invalid_request", "body.messages"),
    ]
    fields = batch.to_dict()
    assert all(error["message"] for error in fields["errors"]["data"])
    assert fields == golden(
        created, status="failed", failed_at=batch.failed_at, errors={**fields["errors"], "object": "list"}
    )


@pytest.mark.parametrize(
    ("rows", "code"),
    [([], "empty_file"), (["", "  "], "empty_file"), ([row(1, model="no")], "model_not_found")],
)
async def test_inputs_of_no_use(
    client: openai.AsyncOpenAI, work: Callable, rows: list[Any], code: str
) -> None:
    await work()
    batch = await ended(client, (await create(client, rows)).id)
    assert (batch.status, batch.errors.data[0].code) == ("failed", code)


async def test_unknown_fields_of_rows_are_reported_and_refused_if_asked(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    rows = [row(0), row(1, max_token=3), row(2, max_token=4, seed=1)]
    batch = await ended(client, (await create(client, rows)).id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)
    (warning,) = batch.warnings
    assert (warning["code"], warning["line"], warning["param"]) == ("unknown_field", 2, "body.max_token")
    assert "did you mean 'max_tokens'?" in warning["message"]
    strict = await create(client, rows, extra_headers={"x-penstock-strict": "1"})
    refused = await ended(client, strict.id)
    assert (refused.status, refused.warnings) == ("failed", [])
    (error,) = refused.errors.data
    assert (error.code, error.line, error.param) == ("unknown_parameter", 2, "body.max_token")
    assert "did you mean 'max_tokens'?" in error.message


async def test_rows_that_fail_go_to_the_error_file(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    rows = [row(n, max_tokens=-1 if n % 2 else 4) for n in range(6)]
    rows += [row("once", simulate="error_once"), row("never", simulate="error")]
    batch = await ended(client, (await create(client, rows)).id)
    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 8, "completed": 4, "failed": 4}
    errors = {line["custom_id"]: line for line in await lines(client, batch.error_file_id)}
    assert set(errors) == {"row-1", "row-3", "row-5", "row-never"}
    assert errors["row-1"]["error"] is None
    assert errors["row-1"]["response"]["status_code"] == 400
    assert errors["row-1"]["response"]["body"]["error"]["message"]
    assert errors["row-never"]["response"]["status_code"] == 500
    assert {line["custom_id"] for line in await lines(client, batch.output_file_id)} == {
        "row-0",
        "row-2",
        "row-4",
        "row-once",
    }


async def test_all_rows_failed_is_completed_without_an_output(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work()
    batch = await ended(client, (await create(client, [row(n, max_tokens=-1) for n in range(3)])).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(await lines(client, batch.error_file_id)) == 3


async def test_cancelled_with_what_was_done(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work(
        concurrency=64, simulated_inter_token_s=0.05
    )  # room for all: no long row keeps a short one waiting
    rows = [row(n, max_tokens=1 if n < 15 else 2000) for n in range(40)]
    created = await create(client, rows)

    async def some() -> bool:
        return (await client.batches.retrieve(created.id)).request_counts.completed >= 15

    await eventually(some)
    cancelling = await client.batches.cancel(created.id)
    assert stable(cancelling) == golden(
        created,
        status="cancelling",
        model="simulated",
        in_progress_at=cancelling.in_progress_at,
        cancelling_at=cancelling.cancelling_at,
        request_counts=cancelling.request_counts.to_dict(),
        usage=cancelling.usage.to_dict(),
    )
    batch = await ended(client, created.id)
    assert stable(batch) == golden(
        created,
        status="cancelled",
        model="simulated",
        in_progress_at=batch.in_progress_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        request_counts={"total": 40, "completed": 15, "failed": 25},
        usage=batch.usage.to_dict(),
    )
    assert {line["custom_id"] for line in await lines(client, batch.output_file_id)} == {
        f"row-{n}" for n in range(15)
    }
    never = await lines(client, batch.error_file_id)
    assert len(never) == 25
    assert all(line["response"] is None and line["error"]["code"] == "batch_cancelled" for line in never)
    assert (await client.batches.cancel(created.id)).status == "cancelled"


async def test_cancelled_before_anything_ran(client: openai.AsyncOpenAI, puppet: object) -> None:
    created = await create(client, [row(n, model="puppet") for n in range(30)])
    await reaches(client, created.id, "in_progress")
    await client.batches.cancel(created.id)
    batch = await ended(client, created.id)
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert batch.request_counts.failed == 30


async def test_expired_with_what_was_done(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore
) -> None:
    await work(concurrency=64, simulated_inter_token_s=0.05)
    rows = [row(n, max_tokens=1 if n < 5 else 2000) for n in range(25)]
    created = await create(client, rows, completion_window="1h")

    async def done() -> bool:
        return (await client.batches.retrieve(created.id)).request_counts.completed == 5

    await eventually(done)
    now_ms = await store.now_ms()
    await store.client.hset(store.keys("batch", created.id), "expires", str(now_ms))  # an hour later
    batch = await ended(client, created.id)
    assert stable(batch) == golden(
        created,
        status="expired",
        model="simulated",
        completion_window="1h",
        expires_at=batch.expires_at,
        in_progress_at=batch.in_progress_at,
        expired_at=batch.expired_at,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        request_counts={"total": 25, "completed": 5, "failed": 20},
        usage=batch.usage.to_dict(),
    )
    assert created.expires_at - created.created_at in {3600, 3601}
    assert batch.expires_at == now_ms // 1000
    never = await lines(client, batch.error_file_id)
    assert {line["error"]["code"] for line in never} == {"batch_expired"}
    assert len(await lines(client, batch.output_file_id)) == 5


async def test_a_finished_batch_cannot_be_cancelled(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    batch = await ended(client, (await create(client, [row(1)])).id)
    with pytest.raises(openai.ConflictError) as refused:
        await client.batches.cancel(batch.id)
    assert refused.value.code == "batch_finished"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"endpoint": ...}, "endpoint", "missing_required_parameter"),
        ({"completion_window": ...}, "completion_window", "missing_required_parameter"),
        ({"input_file_id": ...}, "input_file_id", "missing_required_parameter"),
        ({"endpoint": "/v1/images"}, "endpoint", "invalid_value"),
        ({"endpoint": 3}, "endpoint", "invalid_value"),
        ({"completion_window": "soon"}, "completion_window", "invalid_value"),
        ({"input_file_id": "file-nope"}, "input_file_id", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_value"),
        ({"metadata": {f"{n}": "" for n in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"k" * 65: ""}}, f"metadata.{'k' * 64}", "invalid_value"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"priority": "realtime"}, "priority", "invalid_value"),
        ({"priority": []}, "priority", "invalid_value"),
        ({"priority": {}}, "priority", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "x", "seconds": 1}},
            "output_expires_after.anchor",
            "invalid_request",
        ),
        ({"colour": "red"}, "colour", "unknown_parameter"),
    ],
)
async def test_wrong_parameters(
    client: openai.AsyncOpenAI, api: ApiServer, change: dict[str, Any], param: str, code: str
) -> None:
    given = {
        "input_file_id": await upload(client, jsonl([row(1)])),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **change,
    }
    async with api.client() as http:
        answer = await http.post("/v1/batches", json={k: v for k, v in given.items() if v is not ...})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert (await client.batches.list()).data == []


async def test_a_file_of_another_purpose_is_refused(client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("x", jsonl([row(1)])), purpose="user_data")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert refused.value.param == "input_file_id"


async def test_lists_and_idempotency(client: openai.AsyncOpenAI, puppet: object) -> None:
    file = await upload(client, jsonl([row(1, model="puppet")]))
    given: dict[str, Any] = {
        "input_file_id": file,
        "endpoint": "/v1/chat/completions",
        "completion_window": "1h",
    }
    key = {"Idempotency-Key": "k"}
    first = await client.batches.create(**given, extra_headers=key)
    assert (await client.batches.create(**given, extra_headers=key)).id == first.id
    with pytest.raises(openai.ConflictError):
        await client.batches.create(**given | {"completion_window": "2h"}, extra_headers=key)
    with pytest.raises(openai.ConflictError) as used:
        await client.files.delete(file)
    assert used.value.code == "file_in_use"
    ids = [first.id] + [(await client.batches.create(**given)).id for _ in range(4)]
    page = await client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == [ids[4], ids[3]]
    assert page.has_more
    assert [batch.id async for batch in client.batches.list(limit=2)] == ids[::-1]
    oldest = await client.batches.list(extra_query={"order": "asc"}, limit=2)
    assert [batch.id for batch in oldest.data] == ids[:2]
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve("batch_nope")
    for ident in ids:
        await client.batches.cancel(ident)
        await ended(client, ident)
    await client.files.delete(file)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [("/v1/completions", {"prompt": "hi"}), ("/v1/embeddings", {"input": "hi"})],
)
async def test_other_endpoints(
    client: openai.AsyncOpenAI, work: Callable, endpoint: str, body: dict[str, str]
) -> None:
    await work()
    rows = [{**row(n), "url": endpoint, "body": {"model": "simulated", **body}} for n in range(3)]
    created = await create(
        client, rows, endpoint=endpoint, output_expires_after={"anchor": "created_at", "seconds": 3600}
    )
    batch = await ended(client, created.id)
    assert batch.request_counts.completed == 3
    file = await client.files.retrieve(batch.output_file_id)
    assert file.expires_at == file.created_at + 3600


async def test_interactive_jobs_keep_their_slots_beside_rows(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore
) -> None:
    await work(concurrency=8, simulated_inter_token_s=0.05)
    created = await create(client, [row(n, max_tokens=2000) for n in range(40)])

    async def rows_running() -> bool:
        return any(worker.get("engine_running") == 6 for worker in await store.workers())

    await eventually(rows_running)
    for n in range(5):
        answer = await client.chat.completions.create(
            model="simulated", messages=[{"role": "user", "content": f"hi {n}"}], max_tokens=2, timeout=10
        )
        assert answer.choices[0].message.content
    assert (await client.batches.retrieve(created.id)).status == "in_progress"
    await client.batches.cancel(created.id)
    await ended(client, created.id)


async def test_a_job_cannot_pretend_to_be_a_chunk(api: ApiServer, work: Callable) -> None:
    await work()
    async with api.client() as http:
        body = {"endpoint": "/v1/batches/chunk", "input": {"model": "simulated"}}
        assert (await http.post("/v1/jobs", json=body)).status_code == 400


async def test_many_batches_at_once(client: openai.AsyncOpenAI, work: Callable) -> None:
    await work()
    made = await asyncio.gather(*(create(client, [row(f"{k}-{n}") for n in range(12)]) for k in range(6)))
    batches = await asyncio.gather(*(ended(client, one.id) for one in made))
    for k, batch in enumerate(batches):
        names = {line["custom_id"] for line in await lines(client, batch.output_file_id)}
        assert names == {f"row-{k}-{n}" for n in range(12)}


async def test_verified_by_hand(client: openai.AsyncOpenAI, api: ApiServer, work: Callable) -> None:
    """The proof must fail where a file was tampered with."""
    await work()
    batch = await ended(client, (await create(client, [row(n) for n in range(20)])).id)
    async with api.client() as http:
        proof = (await http.get(f"/v1/batches/{batch.id}/verify")).json()
        assert (proof["ok"], proof["total"], proof["completed"], proof["failed"]) == (True, 20, 20, 0)
        storage, key = api.services.storage, f"files/{batch.output_file_id}"
        whole = [json.dumps(line) for line in await lines(client, batch.output_file_id)]
        stranger = json.dumps({**json.loads(whole[0]), "custom_id": "stranger"})
        for text, expected in (
            (whole[1:], {"missing": 1, "duplicates": 0, "unknown": 0}),
            ([*whole, whole[0]], {"missing": 0, "duplicates": 1, "unknown": 0}),
            ([*whole, stranger], {"missing": 0, "duplicates": 0, "unknown": 1}),
        ):
            await storage.put(key, jsonl(text))
            proof = (await http.get(f"/v1/batches/{batch.id}/verify")).json()
            assert not proof["ok"]
            assert {name: proof[name] for name in expected} == expected
            assert proof["examples"]
