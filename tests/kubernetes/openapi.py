"""The least of ``/openapi/v3`` that Helm and kubectl read: that the server checks the fields of each kind itself."""

from __future__ import annotations

from collections.abc import Mapping

from tests.kubernetes.kinds import Kind, Object

ROOT = "/openapi/v3"


def openapi(path: str, kinds: Mapping[str, Mapping[str, Kind]]) -> Object | None:
    """Return the document at a path; None: there is none."""
    where = {("apis/" if "/" in group else "api/") + group: group for group in kinds}
    if path == ROOT:
        return {"paths": {at: {"serverRelativeURL": f"{ROOT}/{at}"} for at in where}}
    at = path.removeprefix(f"{ROOT}/")
    if at == path or at not in where:
        return None
    paths = {
        f"/{at}/{'' if kind.cluster else 'namespaces/{namespace}/'}{name}/{{name}}": _item(where[at], kind)
        for name, kind in kinds[where[at]].items()
    }
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"}, "paths": paths}


def _item(group: str, kind: Kind) -> Object:
    name, _, version = group.rpartition("/")
    checked = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    return {
        "patch": {
            "parameters": [checked],
            "responses": {},
            "x-kubernetes-group-version-kind": {"group": name, "version": version, "kind": kind.name},
        }
    }
