"""The API server of these tests answers as the real one does where a client can tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import yaml

from tests.kubernetes import Cluster

MAPS = "/api/v1/namespaces/llm/configmaps"
CRD = yaml.safe_load("""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things, singular: thing, shortNames: [th]}
  versions:
    - name: v1
      served: true
      storage: true
      subresources: {status: {}}
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, required: [size], properties: {size: {type: integer}, colour: {type: string, default: red}}}
            status: {type: object, properties: {seen: {type: integer}}}
""")
THINGS = "/apis/example.com/v1/namespaces/llm/things"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def http(cluster: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, timeout=10) as http:
        yield http


def a_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}, "data": {}}


@contextmanager
def watch(http: httpx.Client, version: str, **query: str) -> Iterator[Iterator[dict[str, Any]]]:
    params = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, **query}
    with http.stream("GET", MAPS, params=params) as stream:
        yield (json.loads(line) for line in stream.iter_lines())


def test_a_watch_tells_each_change_after_its_version(http: httpx.Client) -> None:
    version = http.get(MAPS).json()["metadata"]["resourceVersion"]
    http.post(MAPS, json=a_map("one", labels={"of": "us"}))
    http.post(MAPS, json=a_map("other"))
    http.patch(f"{MAPS}/one", json={"data": {"a": "1"}})
    http.patch(f"{MAPS}/one", json={"data": {"a": "1"}})  # changes nothing
    http.delete(f"{MAPS}/one")
    with watch(http, version, labelSelector="of=us") as events:
        told = [
            (one["type"], one["object"]["metadata"]["name"]) for one, _ in zip(events, range(3), strict=False)
        ]
    assert told == [("ADDED", "one"), ("MODIFIED", "one"), ("DELETED", "one")]


def test_a_quiet_watch_gets_bookmarks_and_a_late_one_410(cluster: Cluster, http: httpx.Client) -> None:
    version = http.get(MAPS).json()["metadata"]["resourceVersion"]
    with watch(http, version) as events:
        assert next(events)["type"] == "BOOKMARK"
        cluster.cut_watches()
        assert [one for one in events if one["type"] != "BOOKMARK"] == []
    http.post(MAPS, json=a_map("one"))
    cluster.store.compact()
    with watch(http, version) as events:
        (gone,) = events
    assert (gone["type"], gone["object"]["code"]) == ("ERROR", 410)


def test_a_stale_write_is_refused(http: httpx.Client) -> None:
    made = http.post(MAPS, json=a_map("one")).json()
    http.patch(f"{MAPS}/one", json={"data": {"a": "1"}})
    assert http.put(f"{MAPS}/one", json=made).status_code == 409
    patch = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": made["metadata"]["resourceVersion"]}
    ]
    kind = {"content-type": "application/json-patch+json"}
    assert http.patch(f"{MAPS}/one", json=patch, headers=kind).status_code == 422


def test_server_side_apply_takes_back_what_its_manager_leaves_out(http: httpx.Client) -> None:
    def apply(data: dict[str, str], manager: str) -> Any:
        kind = {"content-type": "application/apply-patch+yaml"}
        body = a_map("one") | {"data": data}
        return http.patch(f"{MAPS}/one?fieldManager={manager}", json=body, headers=kind).json()["data"]

    assert apply({"a": "1", "b": "1"}, "us") == {"a": "1", "b": "1"}
    assert apply({"c": "1"}, "them") == {"a": "1", "b": "1", "c": "1"}
    assert apply({"a": "2"}, "us") == {"a": "2", "c": "1"}


def test_finalizers_hold_an_object_and_owners_take_theirs_along(http: httpx.Client) -> None:
    uid = http.post(MAPS, json=a_map("owner", finalizers=["wait"])).json()["metadata"]["uid"]
    http.post(MAPS, json=a_map("owned", ownerReferences=[{"uid": uid}]))
    http.delete(f"{MAPS}/owner")
    assert "deletionTimestamp" in http.get(f"{MAPS}/owner").json()["metadata"]
    assert http.get(f"{MAPS}/owned").status_code == 200
    http.patch(f"{MAPS}/owner", json={"metadata": {"finalizers": []}})
    assert [http.get(f"{MAPS}/{name}").status_code for name in ("owner", "owned")] == [404, 404]


def test_a_custom_resource_has_a_schema_and_a_status_of_its_own(cluster: Cluster, http: httpx.Client) -> None:
    assert http.get(THINGS).status_code == 404
    cluster.create(CRD)
    found = http.get("/apis/example.com/v1").json()["resources"]
    assert {one["name"] for one in found} == {"things", "things/status"}
    thing = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}}
    assert http.post(THINGS, json={**thing, "spec": {"size": "big"}}).status_code == 422
    made = http.post(THINGS, json={**thing, "spec": {"size": 1, "odd": 1}, "status": {"seen": 1}}).json()
    assert made["spec"] == {"size": 1, "colour": "red"}
    assert "status" not in made
    both = {"spec": {"size": 2}, "status": {"seen": 2}}
    assert http.patch(f"{THINGS}/t/status", json=both).json()["spec"]["size"] == 1
    last = http.patch(f"{THINGS}/t", json={"spec": {"size": 3}, "status": {"seen": 3}}).json()
    assert (last["spec"]["size"], last["status"], last["metadata"]["generation"]) == (3, {"seen": 2}, 2)


def test_kubectl_finds_resources_by_their_short_names(http: httpx.Client) -> None:
    def short(group: str) -> dict[str, str]:
        listed = http.get(group).json()["resources"]
        return {name: one["name"] for one in listed for name in one.get("shortNames", ())}

    assert short("/apis/apps/v1") == {"deploy": "deployments", "rs": "replicasets", "sts": "statefulsets"}
    assert (
        short("/api/v1").items() >= {"po": "pods", "pvc": "persistentvolumeclaims", "svc": "services"}.items()
    )


def test_a_token_may_do_what_its_rules_say(cluster: Cluster, http: httpx.Client) -> None:
    cluster.access.restrict(
        "t", [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "create"]}]
    )
    me = {"authorization": "Bearer t"}
    assert http.post(MAPS, json=a_map("one"), headers=me).status_code == 201
    assert http.get(MAPS, headers=me).status_code == 200
    assert http.get(f"{MAPS}/one", headers=me).status_code == 403
    assert http.get("/api/v1/namespaces/llm/pods", headers=me).status_code == 403
