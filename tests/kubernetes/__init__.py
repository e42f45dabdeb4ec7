"""A small Kubernetes API server in memory, and what runs its Deployments in tests.

It keeps objects and answers as the real one does where a client can tell: watches with resource versions, bookmarks and 410
Gone; server-side apply; the status subresource; finalizers and owners; CRDs with their schema; rights by RBAC rules.
"""

from tests.kubernetes.cluster import Cluster

__all__ = ["Cluster"]
