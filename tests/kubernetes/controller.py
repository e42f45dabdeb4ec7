"""Runs the Deployments of a cluster in memory, as Kubernetes' controllers and a kubelet do: pods come, get ready and go.

There are no ReplicaSets. A changed template replaces pods one by one, the new one first. The test says what a pod is.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol, Self, TypeAlias

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.kinds import Key, Object

LOOK_EVERY_S = 0.03
COST = "controller.kubernetes.io/pod-deletion-cost"
_TEMPLATE = "tests/template"


class State(Enum):
    """Where a container is."""

    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"


class Container(Protocol):
    """What runs in a pod. ``address``: the pod's IP."""

    address: str

    async def poll(self, *, leaving: bool) -> State:
        """Go on a little. ``leaving``: it was told to end (SIGTERM)."""

    async def kill(self) -> None:
        """End it at once."""


Start: TypeAlias = Callable[[Object, Object], Container]
"""Starts the container of a pod. The second argument is its settings file's ConfigMap."""


class Controller:
    """Use it as a context manager. ``stuck``: pods of these Deployments never start."""

    def __init__(self, cluster: Cluster, start: Start) -> None:
        assert cluster.controlled
        self._cluster, self._store, self._start = cluster, cluster.store, start
        self._store.kept.add("Pod")
        self._running: dict[Key, Container] = {}
        self._ready: set[Key] = set()
        self._numbers = iter(range(1, 1 << 30))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="controller")
        self.error: BaseException | None = None
        self.stuck: set[str] = set()
        self.gone: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    async def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                for key, one in self._of("apps/v1", "deployments"):
                    self._control(key, one)
                for key, one in self._of("v1", "pods"):
                    await self._keep(key, one)
                for key, one in self._of("apps/v1", "deployments"):
                    self._report(key, one)
                await asyncio.sleep(LOOK_EVERY_S)
        except BaseException as error:
            self.error = error
        for container in self._running.values():
            await container.kill()

    def _of(self, group: str, resource: str) -> list[tuple[Key, Object]]:
        with self._store.changed:
            return [(key, one) for key, one in self._store.all.items() if key[:2] == (group, resource)]

    def _pods(self, deployment: Object) -> list[tuple[Key, Object]]:
        uid = deployment["metadata"]["uid"]
        found = self._of("v1", "pods")
        return [(key, one) for key, one in found if one["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _control(self, key: Key, deployment: Object) -> None:
        """Create a pod that is missing, delete those that are too many."""
        replicas, template = deployment["spec"].get("replicas", 1), _hash(deployment)
        pods = [(k, p) for k, p in self._pods(deployment) if "deletionTimestamp" not in p["metadata"]]
        new = [(k, p) for k, p in pods if p["metadata"]["annotations"][_TEMPLATE] == template]
        if len(new) < replicas and len(pods) <= replicas:
            for _ in range(max(1, replicas - len(pods))):
                self._create(key, deployment, template)
            return
        spare = len(pods) - replicas
        if spare <= 0 or (len(new) < len(pods) and len([k for k, _ in new if k in self._ready]) < len(new)):
            return  # old pods stay until the new ones are ready
        order = sorted(pods, key=lambda pod: self._worth(pod[0], pod[1], template))
        for place, _ in order[:spare]:
            self._store.delete(place)

    def _worth(self, key: Key, pod: Object, template: str) -> tuple[bool, bool, int, int]:
        """Order pods as the ReplicaSet controller does: first old ones, those not ready, then by their deletion cost."""
        notes = pod["metadata"]["annotations"]
        cost = int(notes.get(COST, "0"))
        number = int(pod["metadata"]["name"].rpartition("-")[2])
        return notes[_TEMPLATE] == template, key in self._ready, cost, -number

    def _create(self, key: Key, deployment: Object, template: str) -> None:
        pod = copy.deepcopy(deployment["spec"]["template"])
        meta = pod["metadata"]
        meta["name"] = f"{key[3]}-{next(self._numbers)}"
        meta["annotations"] = {**meta.get("annotations", {}), _TEMPLATE: template}
        owner = {"kind": "Deployment", "name": key[3], "uid": deployment["metadata"]["uid"]}
        meta["ownerReferences"] = [owner]
        self._store.put(("v1", "pods", key[2], meta["name"]), pod)

    async def _keep(self, key: Key, pod: Object) -> None:
        """Start a pod's container, start it again if it ended, remove the pod once it has ended as it should."""
        meta = pod["metadata"]
        leaving = "deletionTimestamp" in meta
        container = self._running.get(key)
        if container is None:
            if leaving:
                self._remove(key)
            elif meta["ownerReferences"][0]["name"] not in self.stuck:
                self._begin(key, pod)
            return
        state = await container.poll(leaving=leaving)
        if state is State.ENDED:
            del self._running[key]
            self._ready.discard(key)
            if leaving:
                self._remove(key)
        elif state is State.READY:
            self._ready.add(key)

    def _begin(self, key: Key, pod: Object) -> None:
        name = next(one["configMap"]["name"] for one in pod["spec"]["volumes"] if one["name"] == "settings")
        said = self._store.all.get(("v1", "configmaps", key[2], name))
        if said is None:
            return  # a kubelet waits, too
        container = self._start(pod, said)
        self._running[key] = container
        self._set_status(key, {"podIP": container.address, "phase": "Running"})

    def _remove(self, key: Key) -> None:
        self.gone.append(str(key[3]))
        self._store.delete(key, now=True)

    def _report(self, key: Key, deployment: Object) -> None:
        pods = self._pods(deployment)
        stuck = key[3] in self.stuck
        late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
        self._set_status(
            key,
            {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": len(pods),
                "readyReplicas": sum(
                    place in self._ready and "deletionTimestamp" not in one["metadata"] for place, one in pods
                ),
                "updatedReplicas": sum(
                    one["metadata"]["annotations"][_TEMPLATE] == _hash(deployment) for _, one in pods
                ),
                "conditions": [late | {"message": "its pods do not get ready"}] if stuck else [],
            },
        )

    def _set_status(self, key: Key, status: dict[str, Any]) -> None:
        with self._store.changed:
            if key in self._store.all:
                self._store.put(key, {**self._store.all[key], "status": status})


def _hash(deployment: Object) -> str:
    return hashlib.sha256(json.dumps(deployment["spec"]["template"], sort_keys=True).encode()).hexdigest()[
        :10
    ]
