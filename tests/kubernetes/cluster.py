"""The server: requests in, objects and watches out."""

from __future__ import annotations

import copy
import itertools
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.kubernetes.access import Access, Act
from tests.kubernetes.kinds import PATH, Key, Kind, Object, discovery
from tests.kubernetes.objects import Objects
from tests.kubernetes.openapi import openapi
from tests.kubernetes.patches import applied, fitted, json_patched, merged, wrong
from tests.kubernetes.protobuf import secret

BOOKMARK_EVERY_S = 0.5
_VERB = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Cluster:
    """The server. Use it as a context manager.

    Attributes:
        store: what is there.
        access: who may do what.
        controlled: a controller of the test runs Deployments. Without it, one is ready at once.
        before_write: is called before each write of a caller with a token of its own; ``after_write``: after it.
    """

    def __init__(self, *, controlled: bool = False) -> None:
        self.store = Objects()
        self.access = Access()
        self.controlled = controlled
        self.before_write: Callable[[Act], object] = lambda _: None
        self.after_write: Callable[[Act], object] = lambda _: None
        self.closing = threading.Event()
        self._watches = itertools.count(1)
        self._cut = 0
        self._applied: dict[tuple[Key, str], Object] = {}
        cluster = self

        class Handler(_Handler):
            cluster_ = cluster

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def objects(self) -> dict[Key, Object]:
        """What is there, by (group and version, resource, namespace, name)."""
        return self.store.all

    def kubeconfig(self, path: Path, *, token: str | None = None, namespace: str = "default") -> Path:
        """Write the file by which clients find the server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "memory",
            "clusters": [{"name": "memory", "cluster": {"server": self.url}}],
            "contexts": [
                {"name": "memory", "context": {"cluster": "memory", "user": "me", "namespace": namespace}}
            ],
            "users": [{"name": "me", "user": {} if token is None else {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def create(self, *objects: Object, namespace: str = "default") -> None:
        """Create objects, as `kubectl create` does.

        Raises:
            ValueError: the server refuses one.
        """
        for one in objects:
            group = one["apiVersion"]
            plural = next(name for name, kind in self.store.kinds[group].items() if kind.name == one["kind"])
            where = None if self.store.kinds[group][plural].cluster else namespace
            status, said = self.write("POST", (group, plural, where, None), copy.deepcopy(one))
            if status >= 400:
                raise ValueError(said["message"])

    def named(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind, by name."""
        with self.store.changed:
            found = list(self.store.all.values())
        return {one["metadata"]["name"]: one for one in found if one.get("kind") == kind}

    def cut_watches(self) -> None:
        """End all watches that run, as a restart of the real server does."""
        with self.store.changed:
            self._cut = next(self._watches)
            self.store.changed.notify_all()

    def answer(
        self, method: str, path: str, query: Mapping[str, list[str]], body: Any, token: str | None, kind: str
    ) -> tuple[int, Object | Iterable[bytes] | str]:
        """Return the status and the body of the answer to a request: an object, the lines of a watch, or plain text."""
        for documents in (discovery, openapi):
            if (found := documents(path, self.store.kinds)) is not None:
                return 200, found
        place = PATH.fullmatch(path)
        group = (place["core"] or place["group"]) if place else ""
        if place is None or place["resource"] not in self.store.kinds.get(group, {}):
            return 404, "404 page not found\n"
        key = (group, place["resource"], place["namespace"], place["name"])
        watch = query.get("watch", ["0"])[0] in {"1", "true"}
        verb = _VERB[method] if method != "GET" or key[3] else "watch" if watch else "list"
        sub = f"/{place['sub']}" if place["sub"] else ""
        act = Act(verb, "" if place["core"] else group.partition("/")[0], f"{key[1]}{sub}")
        creates = [act._replace(verb="create")] if "apply-patch" in kind and key not in self.store.all else []
        for one in (act, *creates):  # a server-side apply of what is not there needs both
            if not self.access.may(token, one):
                return _failure(
                    403, "Forbidden", f"may not {one.verb} {one.resource} in {one.group or 'core'}"
                )
        if method == "GET":
            return self._read(key, query, watch=watch)
        if token is not None:
            self.before_write(act)
        answer = (
            self._delete(key)
            if method == "DELETE"
            else self.write(method, key, body, sub=place["sub"], kind=kind, query=query)
        )
        if token is not None:
            self.after_write(act)
        return answer

    def _read(
        self, key: Key, query: Mapping[str, list[str]], *, watch: bool
    ) -> tuple[int, Object | Iterable[bytes]]:
        if watch:
            return 200, self._watch(key, query)
        if key[3] is not None:
            if key not in self.store.all:
                return _failure(404, "NotFound", f'{key[1]} "{key[3]}" not found')
            return 200, self.store.all[key]
        with self.store.changed:
            items = list(self.store.matching(key, _filter(query)))
            version = {"resourceVersion": str(self.store.version)}
        kind = f"{self.store.kind_of(key).name}List"
        return 200, {"kind": kind, "apiVersion": key[0], "metadata": version, "items": items}

    def _watch(self, key: Key, query: Mapping[str, list[str]]) -> Iterable[bytes]:
        fits = _filter(query)
        asked = query.get("resourceVersion", [""])[0]
        with self.store.changed:
            number, at, oldest = next(self._watches), int(asked or self.store.version), self.store.oldest
            there = [] if asked else list(self.store.matching(key, fits))
        if at < oldest:
            yield _line("ERROR", _failure(410, "Expired", f"too old resource version: {at} ({oldest})")[1])
            return
        yield from (_line("ADDED", one) for one in there)
        while not self.closing.is_set() and number > self._cut:
            with self.store.changed:
                changes = self.store.since(at)
                if not changes:
                    self.store.changed.wait(BOOKMARK_EVERY_S)
                    changes = self.store.since(at)
                version = self.store.version
            for change in changes:
                at = change.version
                if change.key[:2] == key[:2] and key[2] in {None, change.key[2]} and fits(change.object):
                    yield _line(change.type, change.object)
            if not changes:
                at = version
                mark = {"metadata": {"resourceVersion": str(at)}}
                kind = self.store.kind_of(key).name
                yield _line("BOOKMARK", {"kind": kind, "apiVersion": key[0], **mark})

    def _delete(self, key: Key) -> tuple[int, Object]:
        if key not in self.store.all:
            return _failure(404, "NotFound", f'{key[1]} "{key[3]}" not found')
        self.store.delete(key)
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def write(
        self,
        method: str,
        key: Key,
        body: Any,
        *,
        sub: str | None = None,
        kind: str = "",
        query: Mapping[str, list[str]] | None = None,
    ) -> tuple[int, Object]:
        """Create, replace or patch an object."""
        query = query or {}
        with self.store.changed:
            if method == "POST":
                metadata = body.setdefault("metadata", {})
                if "generateName" in metadata:
                    metadata.setdefault("name", f"{metadata['generateName']}{self.store.version:05x}")
                key = (*key[:3], metadata["name"])
                if key in self.store.all:
                    return _failure(409, "AlreadyExists", f'{key[1]} "{key[3]}" already exists')
            old = self.store.all.get(key)
            if old is None and (
                sub or (method == "PATCH" and "apply" not in kind and "metadata" not in body)
            ):
                return _failure(404, "NotFound", f'{key[1]} "{key[3]}" not found')
            version = body.get("metadata", {}).get("resourceVersion") if isinstance(body, dict) else None
            if old is not None and version not in {None, old["metadata"]["resourceVersion"]}:
                return _failure(409, "Conflict", f'{key[1]} "{key[3]}" was changed since it was read')
            new = self._new(method, key, old, body, kind, query)
            if new is None:
                return _failure(422, "Invalid", "the patch does not apply")
            new = _part_of(old, new, self.store.kind_of(key), sub)
            if refused := self._check(key, new):
                return _failure(422, "Invalid", refused)
            if new["kind"] in {"Deployment", "StatefulSet"} and not self.controlled:
                _run(new)
            if "dryRun" not in query:
                new = self.store.put(key, new)
            return (201 if method == "POST" else 200), new

    def _new(
        self,
        method: str,
        key: Key,
        old: Object | None,
        body: Any,
        kind: str,
        query: Mapping[str, list[str]],
    ) -> Object | None:
        """Return the object as the request wants it; None: the patch does not apply."""
        before = old or {}
        if method != "PATCH":
            return {**before, **body} if method == "PUT" else dict(body)
        if "json-patch" in kind:
            return json_patched(before, body)
        if "apply-patch" in kind:
            manager = (key, query["fieldManager"][0])
            new: Object = applied(before, self._applied.get(manager), body)
            self._applied[manager] = copy.deepcopy(body)
            return new
        return dict(merged(before, body))

    def _check(self, key: Key, new: Object) -> str | None:
        """Return why a custom resource is refused, after defaults are set and unknown fields dropped."""
        kind = self.store.kind_of(key)
        new.setdefault("kind", kind.name)
        new.setdefault("apiVersion", key[0])
        if kind.schema is None:
            return None
        for name in ("spec", "status"):
            if name in new and name in kind.schema["properties"]:
                new[name] = fitted(new[name], kind.schema["properties"][name])
        return wrong(new, kind.schema)


def _part_of(old: Object | None, new: Object, kind: Kind, sub: str | None) -> Object:
    """Leave alone what the request may not write: the status, or all but the status."""
    if sub == "status":
        return {**(old or {}), "status": new.get("status", {})}
    if kind.status:
        new = {name: value for name, value in new.items() if name != "status"}
        if old is not None and "status" in old:
            new["status"] = old["status"]
    return new


def _run(one: Object) -> None:
    replicas = one["spec"].get("replicas", 1)
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "currentReplicas")
    one["status"] = {"observedGeneration": one["metadata"].get("generation", 1)} | dict.fromkeys(
        counts, replicas
    )


def _filter(query: Mapping[str, list[str]]) -> Callable[[Object], bool]:
    parts = [part for part in query.get("labelSelector", [""])[0].split(",") if part]
    equal = dict(part.split("=", 1) for part in parts if "=" in part and "!=" not in part)
    there = {part for part in parts if "=" not in part}
    fields = query.get("fieldSelector", [""])[0].split(",")
    name = next((part.split("=", 1)[1] for part in fields if part.startswith("metadata.name=")), None)

    def fits(one: Object) -> bool:
        labels = one["metadata"].get("labels", {})
        return (
            equal.items() <= labels.items()
            and there <= labels.keys()
            and name in {None, one["metadata"]["name"]}
        )

    return fits


def _failure(code: int, reason: str, message: str) -> tuple[int, Object]:
    said = {"status": "Failure", "reason": reason, "message": message, "code": code}
    return code, {"kind": "Status", "apiVersion": "v1", **said}


def _line(kind: str, one: Object) -> bytes:
    return json.dumps({"type": kind, "object": one}).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: a client that is killed leaves its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster_: Cluster

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.headers.get("content-type") or ""
        body = None
        if raw and self.command != "DELETE":
            body = (
                secret(raw)
                if "protobuf" in kind
                else yaml.safe_load(raw)
                if "yaml" in kind
                else json.loads(raw)
            )
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ") or None
        query = parse_qs(url.query)
        status, said = self.cluster_.answer(self.command, url.path, query, body, token, kind)
        if isinstance(said, dict | str):
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            kind = "text/plain" if isinstance(said, str) else "application/json"
            self._begin(status, kind, ("content-length", str(len(data))))
            self.wfile.write(data)
            return
        self._begin(status, "application/json", ("transfer-encoding", "chunked"))
        for line in said:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _begin(self, status: int, kind: str, header: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header(*header)
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - http.server's names
