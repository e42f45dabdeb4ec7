"""The objects of a pool: ConfigMap, Deployment and ScaledObject. Pure.

The chart renders a Deployment and a ScaledObject of a pool named :data:`PLACE`; here they get what a ModelPool says. A test
compares the outcome with the chart's own for the same pool.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

import tomli_w

from deploy.operator.base import Base
from deploy.operator.pool import OWNER_LABEL, POOL_LABEL, ModelPool, Scaling

Object: TypeAlias = dict[str, Any]

PLACE: Final = "__pool__"
FINGERPRINT: Final = "penstock.dev/fingerprint"
MANAGER: Final = "penstock-operator"
_HELM: Final = frozenset({"helm.sh/chart", "app.kubernetes.io/managed-by"})
_MOST_NAME: Final = 63
_MOST_WINDOW_S: Final = 3600
"""Kubernetes refuses a HorizontalPodAutoscaler that looks further back."""
_ONE_BY_ONE: Final = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
_LIGHT: Final = frozenset({"openai", "simulated"})
_PLACEMENT: Final = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "priorityClassName",
    "runtimeClassName",
)


def name_of(base: Base, version: str) -> str:
    """Return the name of a version's objects. ``version``: its pool, such as ``chat-v2``."""
    name = f"{base.release}-worker-{version}"
    if len(name) <= _MOST_NAME:
        return name
    return f"{name[:52]}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def settings(base: Base, pool: ModelPool) -> Object:
    """Return the settings file of the pool's workers, as a table."""
    table: Object = dict(pool.settings)
    table["served_model_name"] = pool.served_name
    if pool.model:
        table["model"] = pool.model
    if pool.aliases:
        table["aliases"] = [*pool.aliases]
    if pool.engine != "vllm":
        table["engine"] = pool.engine
    if pool.spec.get("engineArgs"):
        table["engine_args"] = [*pool.spec["engineArgs"]]
    if pool.gpus > 1:
        table["tensor_parallel"] = pool.gpus
    table["drain_timeout_s"] = _drain_s(base, pool)
    return {**base.settings, "pools": {pool.name: table}}


def config_map(base: Base, pool: ModelPool, version: str) -> Object:
    """Return the ConfigMap with a version's settings file."""
    text = tomli_w.dumps(settings(base, pool))
    meta = _metadata(base, pool, version, base.deployment["metadata"].get("labels", {}))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"penstock.toml": text}}


def deployment(base: Base, pool: ModelPool, version: str) -> Object:
    """Return the Deployment of a version's workers. It names no replicas: those are scaled."""
    like = base.deployment if pool.scaling is None else base.scaling_deployment
    spec, own = copy.deepcopy(dict(like["spec"])), pool.spec
    spec.pop("replicas", None)
    drain_s, start_s = _drain_s(base, pool), int(own.get("startSeconds", base.start_s))
    spec["progressDeadlineSeconds"] = start_s + drain_s + 300
    if own.get("strategy"):
        spec["strategy"] = own["strategy"]
    elif not pool.surge:
        spec["strategy"] = _ONE_BY_ONE
    template = spec["template"]
    labels = {name: value for name, value in template["metadata"]["labels"].items() if name not in _HELM}
    template["metadata"] = {
        "labels": labels | {OWNER_LABEL: pool.name, "penstock.dev/engine": pool.engine},
        "annotations": {"checksum/settings": _digest(base, pool), **own.get("podAnnotations", {})},
    }
    pod = template["spec"]
    pod["terminationGracePeriodSeconds"] = drain_s + 20
    pod |= {name: own[name] for name in _PLACEMENT if own.get(name)}
    (container,) = pod["containers"]
    _fill(container, base, pool, start_s)
    container["args"] = [*_put(container["args"], {PLACE: pool.name}), *_flags(pool, version)]
    pod["volumes"] = [_volume(one, base, pool, version) for one in pod["volumes"]]
    meta = _metadata(base, pool, version, base.deployment["metadata"].get("labels", {}))
    meta["annotations"] = {FINGERPRINT: pool.fingerprint}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": _put(spec, {PLACE: version}),
    }


def scaled_object(base: Base, pool: ModelPool, version: str) -> Object:
    """Return the ScaledObject that has KEDA scale a version. The pool scales."""
    scaling = pool.scaling
    assert scaling is not None  # noqa: S101 - the caller has looked
    spec = _put(copy.deepcopy(dict(base.scaled_object["spec"])), {PLACE: version})
    spec["scaleTargetRef"] = {"name": name_of(base, version)}
    spec |= {"minReplicaCount": scaling.least, "maxReplicaCount": scaling.most}
    drain_s = _drain_s(base, pool)
    spec["cooldownPeriod"] = max(int(spec["cooldownPeriod"]), drain_s)
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    longest = max(int(down["stabilizationWindowSeconds"]), drain_s + 20)
    down["stabilizationWindowSeconds"] = min(longest, _MOST_WINDOW_S)
    most = _most(scaling, base.target)
    spec["triggers"] = [_trigger(one, most[one["name"]]) for one in spec["triggers"] if one["name"] in most]
    meta = _metadata(base, pool, version, base.deployment["metadata"].get("labels", {}))
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": meta, "spec": spec}


def _most(scaling: Scaling, target: float) -> dict[str, str]:
    """Return what one worker may have of each signal; a signal that is missing is not looked at."""
    backlog = Decimal(str(scaling.target or target)) * scaling.slots
    most = {"backlog": f"{backlog.normalize():f}"}
    if scaling.deadlines:
        most["deadline"] = "1"
    if scaling.max_wait_s is not None:
        most["oldest"] = str(scaling.max_wait_s)
    return most


def _trigger(one: Object, most: str) -> Object:
    name = "threshold" if "threshold" in one["metadata"] else "targetValue"
    return {**one, "metadata": one["metadata"] | {name: most}}


def _metadata(base: Base, pool: ModelPool, version: str, labels: Mapping[str, str]) -> Object:
    kept = {name: value for name, value in labels.items() if name not in _HELM}
    return {
        "name": name_of(base, version),
        "namespace": pool.namespace,
        "labels": _put(kept, {PLACE: version})
        | {OWNER_LABEL: pool.name, POOL_LABEL: version, "app.kubernetes.io/managed-by": MANAGER},
        "ownerReferences": [pool.owner()],
    }


def _fill(container: Object, base: Base, pool: ModelPool, start_s: int) -> None:
    own = pool.spec
    kind = "light" if pool.engine in _LIGHT else "gpu" if pool.gpus else "cpu"
    container["image"] = base.images[kind]
    container["startupProbe"]["failureThreshold"] = (start_s + 9) // 10
    resources = copy.deepcopy(dict(own.get("resources", {})))
    if pool.gpus:
        resources["limits"] = {**resources.get("limits", {}), pool.gpu_resource: pool.gpus}
    container["resources"] = resources
    if own.get("hfToken"):
        key = {"name": base.secret, "key": "hf_token"}
        container["env"].append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": key}})
    container["env"] += own.get("env", [])


def _flags(pool: ModelPool, version: str) -> list[str]:
    gpus = ["--gpus", "all"] if pool.gpus else []
    if version == pool.name:
        return gpus
    return [*gpus, "--pool-version", version.removeprefix(f"{pool.name}-")]


def _volume(one: Object, base: Base, pool: ModelPool, version: str) -> Object:
    light = pool.engine in _LIGHT
    if one["name"] == "settings":
        return {"name": "settings", "configMap": {"name": name_of(base, version)}}
    if one["name"] == "secrets" and pool.engine == "openai":
        secret, role = one["secret"], one["secret"]["items"][0]
        key = {"key": "openai_api_key", "path": "penstock_openai_api_key"}
        return {**one, "secret": {**secret, "items": [role, key, *secret["items"][1:]]}}
    if one["name"] == "tmp":
        return {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi" if light else "4Gi"}}
    if one["name"] == "shm":
        return {
            "name": "shm",
            "emptyDir": {"medium": "Memory", "sizeLimit": pool.spec.get("shmSize", base.shm_size)},
        }
    if one["name"] == "models":
        return {"name": "models", **_models(pool.spec.get("modelCache"))}
    return one


def _models(cache: Mapping[str, str] | None) -> Object:
    if not cache:
        return {"emptyDir": {}}
    if "existingClaim" in cache:
        return {"persistentVolumeClaim": {"claimName": cache["existingClaim"]}}
    if "hostPath" in cache:
        return {"hostPath": {"path": cache["hostPath"], "type": "Directory"}}
    return {"emptyDir": {"sizeLimit": cache.get("size", "200Gi")}}


def _drain_s(base: Base, pool: ModelPool) -> int:
    return int(pool.spec.get("drainSeconds", base.drain_s))


def _digest(base: Base, pool: ModelPool) -> str:
    return hashlib.sha256(tomli_w.dumps(settings(base, pool)).encode()).hexdigest()


def _put(value: Any, texts: Mapping[str, str]) -> Any:
    """Replace these texts in all strings of a value."""
    if isinstance(value, str):
        for old, new in texts.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {name: _put(one, texts) for name, one in value.items()}
    if isinstance(value, list):
        return [_put(one, texts) for one in value]
    return value
