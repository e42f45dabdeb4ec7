"""A small Kubernetes API server in memory: what Helm's install, upgrade, rollback and uninstall ask for.

It keeps objects and merges patches; it runs nothing. A Deployment and a StatefulSet are ready at once. Helm's client sends
its release records as protobuf (``k8s.io/apimachinery``, ``runtime.Unknown``), which is decoded as far as a Secret needs.
"""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import parse_qs, urlsplit

import yaml

Object: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, str | None, str | None]

KINDS: Mapping[str, Mapping[str, str]] = {
    "v1": {
        "configmaps": "ConfigMap",
        "namespaces": "Namespace",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "pods": "Pod",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet", "statefulsets": "StatefulSet"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "keda.sh/v1alpha1": {"scaledobjects": "ScaledObject"},
    "monitoring.coreos.com/v1": {"prometheusrules": "PrometheusRule", "servicemonitors": "ServiceMonitor"},
    "networking.k8s.io/v1": {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"rolebindings": "RoleBinding", "roles": "Role"},
}
"""Resources by group and version."""

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?:status|scale))?"
)


class Cluster:
    """The server. Use it as a context manager.

    Attributes:
        objects: what is there, by (group and version, resource, namespace, name).
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        cluster = self

        class Handler(_Handler):
            server_objects = cluster

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path) -> Path:
        """Write the file by which clients find the server."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "memory",
            "clusters": [{"name": "memory", "cluster": {"server": url}}],
            "contexts": [{"name": "memory", "context": {"cluster": "memory", "user": "none"}}],
            "users": [{"name": "none", "user": {}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def named(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind, by name."""
        return {
            one["metadata"]["name"]: one for one in list(self.objects.values()) if one.get("kind") == kind
        }

    def answer(
        self, method: str, path: str, query: Mapping[str, list[str]], body: Object | None
    ) -> tuple[int, Object]:
        """Return the status and the body of the answer to a request."""
        if (found := _discovery(path)) is not None:
            return 200, found
        place = _PATH.fullmatch(path)
        group = (place["core"] or place["group"]) if place else ""
        if place is None or place["resource"] not in KINDS.get(group, {}):
            return _failure(404, "NotFound", path)
        key = (group, place["resource"], place["namespace"], place["name"])
        with self._lock:
            if method == "GET" and place["name"] is None:
                return 200, self._list(key, query)
            if method in {"GET", "DELETE"}:
                return self._read(method, key)
            return self._write(method, key, body or {}, dry="dryRun" in query)

    def _read(self, method: str, key: Key) -> tuple[int, Object]:
        if key not in self.objects:
            return _failure(404, "NotFound", f'{key[1]} "{key[3]}" not found')
        if method == "GET":
            return 200, self.objects[key]
        del self.objects[key]
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _list(self, key: Key, query: Mapping[str, list[str]]) -> Object:
        group, resource, namespace, _ = key
        wanted = _pairs(query.get("labelSelector", [""])[0])
        name = _pairs(query.get("fieldSelector", [""])[0]).get("metadata.name")
        items = [
            one
            for (of, what, where, called), one in self.objects.items()
            if (of, what) == (group, resource)
            and namespace in {None, where}
            and name in {None, called}
            and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]
        version = {"resourceVersion": str(next(self._numbers))}
        return {
            "kind": f"{KINDS[group][resource]}List",
            "apiVersion": group,
            "metadata": version,
            "items": items,
        }

    def _write(self, method: str, key: Key, body: Object, *, dry: bool) -> tuple[int, Object]:
        group, resource, namespace, name = key
        if method == "POST":
            name = body["metadata"]["name"]
            key = (group, resource, namespace, name)
            if key in self.objects:
                return _failure(409, "AlreadyExists", f'{resource} "{name}" already exists')
        old = self.objects.get(key)
        new = body if old is None else merged(old, body) if method == "PATCH" else {**old, **body}
        if old is None and method == "PATCH" and "metadata" not in body:
            return _failure(404, "NotFound", f'{resource} "{name}" not found')
        metadata = new["metadata"]
        if old is None:
            now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata |= {
                "uid": str(uuid.uuid4()),
                "namespace": namespace,
                "creationTimestamp": now,
                "generation": 1,
            }
        metadata["resourceVersion"] = str(next(self._numbers))
        new.setdefault("kind", KINDS[group][resource])
        new.setdefault("apiVersion", group)
        if new["kind"] in {"Deployment", "StatefulSet"}:
            _run(new)
        if not dry:
            self.objects[key] = new
        return (201 if method == "POST" else 200), new


def _run(one: Object) -> None:
    replicas = one["spec"].get("replicas", 1)
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "currentReplicas")
    one["status"] = {"observedGeneration": one["metadata"].get("generation", 1)} | dict.fromkeys(
        counts, replicas
    )


def _discovery(path: str) -> Object | None:
    if path == "/version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [
            {
                "name": group.partition("/")[0],
                "versions": [{"groupVersion": group, "version": group.partition("/")[2]}],
                "preferredVersion": {"groupVersion": group, "version": group.partition("/")[2]},
            }
            for group in KINDS
            if "/" in group
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    group = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    if group not in KINDS:
        return None
    resources = [
        {
            "name": name,
            "singularName": kind.lower(),
            "namespaced": kind != "Namespace",
            "kind": kind,
            "verbs": _VERBS,
        }
        for name, kind in KINDS[group].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}


def merged(old: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386). Lists are replaced, directives of strategic patches (``$...``) are left out."""
    if not isinstance(old, dict) or not isinstance(patch, dict):
        return patch
    new = dict(old)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif not name.startswith("$"):
            new[name] = merged(new.get(name), value)
    return new


def _pairs(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part and "!=" not in part)


def _failure(code: int, reason: str, message: str) -> tuple[int, Object]:
    said = {"status": "Failure", "reason": reason, "message": message, "code": code}
    return code, {"kind": "Status", "apiVersion": "v1", **said}


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the length-delimited fields of a protobuf message; numbers are passed over."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 2:
            size = number()
            yield tag >> 3, data[at : at + size]
            at += size
        else:
            number()


def _secret(raw: bytes) -> Object:
    """Decode a Secret (``k8s.io/api/core/v1/generated.proto``) behind the four bytes of Kubernetes's protobuf."""
    metadata: Object = {"labels": {}}
    secret: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {}}
    for field, value in _fields(dict(_fields(raw[4:]))[2]):
        if field == 1:
            for part, text in _fields(value):
                if part == 1:
                    metadata["name"] = text.decode()
                elif part == 11:
                    entry = dict(_fields(text))
                    metadata["labels"][entry[1].decode()] = entry.get(2, b"").decode()
        elif field == 2:
            entry = dict(_fields(value))
            secret["data"][entry[1].decode()] = base64.b64encode(entry.get(2, b"")).decode()
        elif field == 3:
            secret["type"] = value.decode()
    return secret


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_objects: Cluster

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.headers.get("content-type") or ""
        body = None
        if raw and self.command != "DELETE":
            body = (
                _secret(raw)
                if "protobuf" in kind
                else yaml.safe_load(raw)
                if "yaml" in kind
                else json.loads(raw)
            )
        status, said = self.server_objects.answer(self.command, url.path, parse_qs(url.query), body)
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - http.server's names
