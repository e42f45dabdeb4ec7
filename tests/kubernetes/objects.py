"""The objects of the cluster, with versions and a log of changes, as etcd and the API machinery keep them."""

from __future__ import annotations

import copy
import datetime as dt
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tests.kubernetes.kinds import BUILT_IN, Key, Kind, Object, custom


class Change(NamedTuple):
    """A change: its version, its type (``ADDED``, ``MODIFIED``, ``DELETED``), and the object as it was then."""

    version: int
    type: str
    key: Key
    object: Object


class Objects:
    """What is there. Hold :attr:`changed` to look at or change several things at once.

    Attributes:
        all: the objects, by key.
        changed: is notified of each change.
        oldest: watches from before this version are told 410 Gone.
        missing: groups that the cluster does not have.
        kept: kinds whose deleted objects stay until a controller removes them, as pods that end do.
    """

    def __init__(self) -> None:
        self.all: dict[Key, Object] = {}
        self.changed = threading.Condition(threading.RLock())
        self.version = 1
        self.oldest = 0
        self.missing: set[str] = set()
        self.kept: set[str] = set()
        self._log: list[Change] = []
        self._custom: dict[str, dict[str, Kind]] = {}

    @property
    def kinds(self) -> Mapping[str, Mapping[str, Kind]]:
        """The resources by group and version, those of CRDs too."""
        every = {**BUILT_IN, **self._custom}
        return {group: kinds for group, kinds in every.items() if group not in self.missing}

    def kind_of(self, key: Key) -> Kind:
        """Return what an object is."""
        return self.kinds[key[0]][key[1]]

    def put(self, key: Key, new: Object) -> Object:
        """Write an object. One that does not change keeps its version, and nobody is told."""
        with self.changed:
            old = self.all.get(key)
            if old is not None and _essence(old) == _essence(new):
                return old
            new = copy.deepcopy(new)
            metadata = new.setdefault("metadata", {})
            kind = self.kind_of(key)
            new.setdefault("kind", kind.name)
            new.setdefault("apiVersion", key[0])
            if old is None:
                now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 1}
                if key[2] is not None:
                    metadata["namespace"] = key[2]
            else:
                kept = {name: old["metadata"][name] for name in ("uid", "creationTimestamp", "generation")}
                metadata |= kept | {"name": key[3]}
                if _wanted(old) != _wanted(new):
                    metadata["generation"] += 1
            if "deletionTimestamp" in metadata and not self._stays(key, new):
                self._remove(key, new)
                return new
            self._note("ADDED" if old is None else "MODIFIED", key, new)
            if kind.name == "CustomResourceDefinition":
                for group, plural, one in custom(new):
                    self._custom.setdefault(group, {})[plural] = one
            return new

    def delete(self, key: Key, *, now: bool = False) -> Object:
        """Delete an object: at once, or, with finalizers, once they are gone. ``now``: whatever holds it."""
        with self.changed:
            one = copy.deepcopy(self.all[key])
            if now or not self._stays(key, one):
                self._remove(key, one)
            elif "deletionTimestamp" not in one["metadata"]:
                one["metadata"]["deletionTimestamp"] = dt.datetime.now(dt.UTC).isoformat()
                self._note("MODIFIED", key, one)
            return one

    def _stays(self, key: Key, one: Object) -> bool:
        return bool(one["metadata"].get("finalizers")) or self.kind_of(key).name in self.kept

    def _remove(self, key: Key, one: Object) -> None:
        self.all.pop(key, None)
        self._note("DELETED", key, one)
        uid = one["metadata"]["uid"]
        owned = [
            other
            for other, child in self.all.items()
            if any(ref["uid"] == uid for ref in child["metadata"].get("ownerReferences", ()))
        ]
        for other in owned:
            self.delete(other)

    def _note(self, what: str, key: Key, one: Object) -> None:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        if what != "DELETED":
            self.all[key] = one
        self._log.append(Change(self.version, what, key, one))
        self.changed.notify_all()

    def since(self, version: int) -> list[Change]:
        """Return the changes after a version."""
        with self.changed:
            return [one for one in self._log if one.version > version]

    def compact(self) -> None:
        """Forget the log: watches that begin before now are told 410 Gone."""
        with self.changed:
            self.version += 1
            self._log.clear()
            self.oldest = self.version

    def matching(self, key: Key, fits: Callable[[Object], bool]) -> Iterator[Object]:
        """Yield the objects of a resource, in its namespace if the key has one."""
        with self.changed:
            found = list(self.all.items())
        for (group, resource, namespace, _), one in found:
            if (group, resource) == key[:2] and key[2] in {None, namespace} and fits(one):
                yield one


def _essence(one: Object) -> str:
    metadata = {name: value for name, value in one.get("metadata", {}).items() if name != "resourceVersion"}
    return json.dumps(one | {"metadata": metadata}, sort_keys=True)


def _wanted(one: Object) -> Object:
    return {name: value for name, value in one.items() if name not in {"metadata", "status"}}
