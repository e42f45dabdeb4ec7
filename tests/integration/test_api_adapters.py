"""LoRA adapters over HTTP: added from uploaded files, listed with what workers say, pinned, removed, and refused."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import constants

from broker.adapters import Adapters
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from jobs.adapter_files import CONFIG, WEIGHTS
from jobs.rollouts import Mode
from penstock import ArgumentError, AsyncPenstock, BadRequestError, NotFoundError
from storage import open_storage
from storage.base import read_all
from tests.adapters import write_adapter
from tests.apiserver import ApiServer
from tests.environment import clean
from tests.puppet import FACTS, MODEL, Puppet

pytestmark = pytest.mark.asyncio
PATH = "/v1/admin/adapters"


def tar_of(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, "adapter")
    return out.getvalue()


async def upload(http: httpx.AsyncClient, data: bytes) -> str:
    sent = {"file": ("adapter.tar.gz", data)}
    got = await http.post("/v1/files", files=sent, data={"purpose": "user_data"})
    assert got.status_code == 200, got.text
    return str(got.json()["id"])


async def add(http: httpx.AsyncClient, source: str, name: str = "acme/sql", **more: Any) -> httpx.Response:
    return await http.post(PATH, json={"name": name, "source": source, **more})


def refused(got: httpx.Response) -> tuple[int, str, str]:
    error = got.json()["error"]
    return got.status_code, error["code"], error["message"]


async def test_an_adapter_from_an_uploaded_tar(
    http: httpx.AsyncClient, api: ApiServer, puppet: Puppet, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a", base_model_name_or_path=f"org/{MODEL}")
    source = await upload(http, tar_of(folder))
    made = await add(http, source, pinned=True)
    assert made.status_code == 201, made.text
    shown = made.json()
    assert (shown["id"], shown["object"], shown["rank"], shown["state"]) == (
        "default/acme/sql",
        "adapter",
        8,
        "pending",
    )
    assert (shown["source"], shown["base"], shown["pinned"]) == (source, f"org/{MODEL}", True)
    adapters = Adapters(puppet.store)
    (record,) = await adapters.of("default")
    kept = await read_all(open_storage(api.settings), record.key)
    assert (hashlib.sha256(kept).hexdigest(), len(kept)) == (record.digest, record.size_bytes)
    with tarfile.open(fileobj=io.BytesIO(kept)) as tar:
        assert tar.getnames() == [CONFIG, WEIGHTS]
    await http.delete(f"/v1/files/{source}")  # the adapter needs it no more
    await adapters.failed(puppet.name, record, "out of memory")
    (listed,) = (await http.get(PATH)).json()["data"]
    assert (listed["state"], listed["workers"]) == (
        "failed",
        [{"worker": puppet.name, "state": "failed", "reason": "out of memory"}],
    )
    await adapters.loaded(puppet.name, record)
    assert (await http.get(f"{PATH}/default/acme/sql")).json()["state"] == "loaded"
    unpinned = await http.patch(f"{PATH}/default/acme/sql", json={"pinned": False})
    assert unpinned.json()["pinned"] is False
    gone = await http.delete(f"{PATH}/default/acme/sql")
    assert gone.json() == {"id": "default/acme/sql", "object": "adapter", "deleted": True}
    for asked in (
        http.get(f"{PATH}/default/acme/sql"),
        http.delete(f"{PATH}/default/acme/sql"),
        http.patch(f"{PATH}/default/acme/sql", json={"pinned": True}),
    ):
        assert refused(await asked)[:2] == (404, "adapter_not_found")
    acts = [one["what"] for one in (await http.get("/v1/admin/audit")).json()["data"]]
    assert [act for act in acts if act.startswith("adapter.")] == [
        "adapter.remove",
        "adapter.unpin",
        "adapter.pin",
        "adapter.add",
    ]


async def test_weights_alone_with_a_configuration_replace_the_files(
    http: httpx.AsyncClient, puppet: Puppet, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    config = json.loads((folder / CONFIG).read_text())
    source = await upload(http, (folder / WEIGHTS).read_bytes())
    status, _, message = refused(await add(http, source, any_base=True))
    assert (status, "no tar" in message) == (400, True)
    first = await add(http, source, any_base=True, config=config, tenant="acme")
    assert first.status_code == 201, first.text
    other = await upload(http, tar_of(write_adapter(tmp_path / "b", fill=1)))
    second = (await add(http, other, any_base=True)).json()
    assert second["digest"] != first.json()["digest"]
    assert (first.json()["tenant"], second["tenant"]) == ("acme", None)


async def test_the_sdk_uploads_a_folder_and_leaves_no_file_behind(
    http: httpx.AsyncClient, api: ApiServer, puppet: Puppet, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    async with AsyncPenstock(api.url) as client:
        with pytest.raises(BadRequestError, match="trained on 'tiny'"):
            await client.adapters.add("acme/sql", folder)
        made = await client.adapters.add("acme/sql", folder, any_base=True, tenant="acme")
        assert (made.id, made.rank, made.tenant, made.state) == ("default/acme/sql", 8, "acme", "pending")
        packed = tmp_path / "a.tar.gz"
        packed.write_bytes(tar_of(folder))
        assert (await client.adapters.add("other", packed, any_base=True)).digest == made.digest
        assert [one.name async for one in client.adapters.list(page_size=1)] == ["acme/sql", "other"]
        assert (await client.adapters.pin("acme/sql")).pinned
        assert (await client.adapters.get("acme/sql")).pinned
        assert await client.adapters.remove("acme/sql")
        with pytest.raises(NotFoundError):
            await client.adapters.get("acme/sql")
        for place, why in (
            (tmp_path / "nothing", "there is nothing at"),
            (tmp_path, "has no adapter_config.json"),
        ):
            with pytest.raises(ArgumentError, match=why):
                await client.adapters.add("x", place)
    assert (await http.get("/v1/files")).json()["data"] == []


async def test_the_command(api: ApiServer, puppet: Puppet, tmp_path: Path) -> None:
    async def run(*args: str) -> list[dict[str, Any]]:
        argv = [sys.executable, "-m", "penstock", "--url", api.url, "adapters", *args, "--json"]
        child = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env=clean())
        out, _ = await child.communicate()
        assert child.returncode == 0
        return [json.loads(line) for line in out.splitlines()]

    folder = str(write_adapter(tmp_path / "a"))
    (made,) = await run("add", "acme/sql", folder, "--any-base", "--pin")
    assert (made["id"], made["pinned"]) == ("default/acme/sql", True)
    (unpinned,) = await run("pin", "acme/sql", "--off")
    assert not unpinned["pinned"]
    assert await run("list", "--pool", "default") == [unpinned]
    assert await run("rm", "acme/sql") == [{"id": "default/acme/sql", "deleted": True}]


async def test_a_pools_name_means_its_version_that_serves(
    http: httpx.AsyncClient, puppet: Puppet, store: JobStore, tmp_path: Path
) -> None:
    first = await upload(http, tar_of(write_adapter(tmp_path / "a")))
    assert (await add(http, first, "sql", any_base=True)).json()["id"] == "default/sql"
    rollouts = Rollouts(store)
    old = await rollouts.get("default")
    started = await rollouts.write(old, old.start("m2", (), Mode.SURGE))
    assert started is not None
    await Puppet(store, "new", "default-v2").live()
    assert await rollouts.write(started, started.flipped(), flip=True)
    other = await upload(http, tar_of(write_adapter(tmp_path / "b", fill=1)))
    replaced = await add(http, other, "sql", any_base=True)
    assert replaced.status_code == 201, replaced.text
    assert replaced.json()["id"] == "default-v2/sql"
    assert [one["id"] for one in (await http.get(PATH)).json()["data"]] == ["default-v2/sql"]
    assert (await http.get(f"{PATH}/default/sql")).json()["digest"] == replaced.json()["digest"]
    assert (await http.delete(f"{PATH}/default/sql")).json()["id"] == "default-v2/sql"
    assert (await http.get(PATH, params={"pool": "default"})).json()["data"] == []


async def test_pages(http: httpx.AsyncClient, puppet: Puppet, tmp_path: Path) -> None:
    source = await upload(http, tar_of(write_adapter(tmp_path / "a")))
    for name in ("b", "a", "c"):
        assert (await add(http, source, name, any_base=True)).status_code == 201
    page = (await http.get(PATH, params={"limit": 2})).json()
    assert ([one["name"] for one in page["data"]], page["has_more"], page["last_id"]) == (
        ["a", "b"],
        True,
        "default/b",
    )
    rest = (await http.get(PATH, params={"after": page["last_id"], "pool": "default"})).json()
    assert ([one["name"] for one in rest["data"]], rest["has_more"]) == (["c"], False)
    assert (await http.get(PATH, params={"pool": "other"})).json()["data"] == []


async def test_what_does_not_fit_is_refused(
    http: httpx.AsyncClient, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    puppet = Puppet(store)
    await puppet.live(facts=FACTS | {"capabilities": {"adapters": 4, "adapter_rank": 8}}, aliases=["gpt-4o"])
    source = await upload(http, tar_of(write_adapter(tmp_path / "a")))
    large = await upload(http, tar_of(write_adapter(tmp_path / "b", rank_pattern={"q": 16})))
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"source": source}, 400, "trained on 'tiny', and the pool serves 'puppet'"),
        ({"source": large, "any_base": True}, 400, "its rank is 16, and the pool's workers take 8 at most"),
        ({"source": source, "any_base": True, "name": "../x"}, 400, "a name begins with"),
        ({"source": source, "any_base": True, "name": MODEL}, 400, "is a model of the pool 'default'"),
        ({"source": source, "any_base": True, "name": "gpt-4o"}, 400, "is an alias of a model"),
        ({"source": source, "pool": "nowhere"}, 404, "the pool 'nowhere' does not exist"),
        ({"source": "/etc"}, 400, "neither the id of an uploaded file nor hf:org/name"),
        ({"source": f"file-{7:032x}"}, 404, "file"),
        ({"source": "hf:only"}, 400, "names no adapter on the hub"),
        ({"source": "hf:org/name", "config": {}}, 400, "has its own"),
        ({"source": "hf:org/no-such-adapter"}, 400, "HF_HUB_OFFLINE is set"),
    ]
    for body, status, why in cases:
        got = await http.post(PATH, json={"name": "sql"} | body)
        assert got.status_code == status, (body, got.text)
        assert why in got.json()["error"]["message"], (body, got.text)
    assert (await http.get(PATH)).json()["data"] == []
