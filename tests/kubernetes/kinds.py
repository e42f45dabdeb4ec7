"""The resources that the server knows, and its discovery documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str, str | None, str | None]
"""Group and version, resource, namespace, name."""

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|scale))?"
)


@dataclass(frozen=True)
class Kind:
    """A resource.

    Attributes:
        name: its kind, such as ``Pod``.
        cluster: it is in no namespace.
        status: it has the status subresource: a write of the object leaves its status alone, and the other way round.
        schema: of a custom resource; None: anything goes.
        short: short names.
    """

    name: str
    cluster: bool = False
    status: bool = False
    schema: Mapping[str, Any] | None = None
    short: tuple[str, ...] = field(default=())


def _plain(**names: str) -> dict[str, Kind]:
    """Return kinds with plain plurals and one short name or none."""
    return {f"{name.lower()}s": Kind(name, short=tuple(short.split())) for name, short in names.items()}


BUILT_IN: Mapping[str, Mapping[str, Kind]] = {
    "v1": {
        **_plain(ConfigMap="cm", Event="ev", PersistentVolumeClaim="pvc", Secret="", Service="svc"),
        **_plain(ServiceAccount="sa"),
        "namespaces": Kind("Namespace", cluster=True, short=("ns",)),
        "pods": Kind("Pod", status=True, short=("po",)),
    },
    "apiextensions.k8s.io/v1": {
        "customresourcedefinitions": Kind("CustomResourceDefinition", cluster=True, short=("crd", "crds"))
    },
    "apps/v1": {
        "deployments": Kind("Deployment", status=True, short=("deploy",)),
        "replicasets": Kind("ReplicaSet", status=True, short=("rs",)),
        "statefulsets": Kind("StatefulSet", status=True, short=("sts",)),
    },
    "autoscaling/v2": _plain(HorizontalPodAutoscaler="hpa"),
    "keda.sh/v1alpha1": _plain(ScaledObject="so", TriggerAuthentication="ta"),
    "monitoring.coreos.com/v1": _plain(PrometheusRule="promrule", ServiceMonitor="smon"),
    "networking.k8s.io/v1": {
        "ingresses": Kind("Ingress", short=("ing",)),
        "networkpolicies": Kind("NetworkPolicy", short=("netpol",)),
    },
    "policy/v1": _plain(PodDisruptionBudget="pdb"),
    "rbac.authorization.k8s.io/v1": _plain(Role="", RoleBinding=""),
}
"""Resources by group and version. PodDisruptionBudgets and the like have plain plurals."""


def custom(definition: Object) -> Iterator[tuple[str, str, Kind]]:
    """Yield the group and version, the plural and the kind of each version of a CustomResourceDefinition."""
    spec = definition["spec"]
    for version in spec["versions"]:
        yield (
            f"{spec['group']}/{version['name']}",
            spec["names"]["plural"],
            Kind(
                spec["names"]["kind"],
                cluster=spec["scope"] == "Cluster",
                status="status" in version.get("subresources", {}),
                schema=version["schema"]["openAPIV3Schema"],
                short=tuple(spec["names"].get("shortNames", ())),
            ),
        )


def discovery(path: str, kinds: Mapping[str, Mapping[str, Kind]]) -> Object | None:
    """Return the discovery document at a path; None: there is none."""
    if path == "/version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [_group(group) for group in kinds if "/" in group]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    group = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    if group not in kinds:
        return None
    resources = [one for name, kind in kinds[group].items() for one in _resources(name, kind)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}


def _group(group: str) -> Object:
    name, _, version = group.partition("/")
    said = {"groupVersion": group, "version": version}
    return {"name": name, "versions": [said], "preferredVersion": said}


def _resources(name: str, kind: Kind) -> Iterator[Object]:
    said: Object = {"namespaced": not kind.cluster, "kind": kind.name}
    yield said | {
        "name": name,
        "singularName": kind.name.lower(),
        "shortNames": [*kind.short],
        "verbs": VERBS,
    }
    if kind.status:
        yield said | {"name": f"{name}/status", "singularName": "", "verbs": ["get", "patch", "update"]}
