"""The first node's watch over the others: an engine that has lost one is dead, although it may not know it yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from broker.db.errors import StoreError
from broker.jobs import JobStore
from broker.nodes import Node, NodeGroup
from workers.settings import WorkerSettings

log = structlog.get_logger(__name__)

_MISSED = 2
"""Looks in a row that must miss a node: one may fall between its end and the next word of it, if Redis was away."""


def group_of(settings: WorkerSettings) -> NodeGroup | None:
    """Return the group of nodes that these settings name; None: the engine is on one machine."""
    if settings.nodes is None or settings.node_master is None:
        return None
    return NodeGroup(settings.pool, settings.node_master, settings.nodes)


class NodeWatch:
    """Looks regularly whether each remote node still runs what the engine was started with.

    Args:
        on_death: called once, with the reason.
    """

    def __init__(self, store: JobStore, group: NodeGroup, on_death: Callable[[str], None]) -> None:
        self._store, self._group, self._on_death = store, group, on_death
        self._known: dict[int, Node] = {}
        self._missed: dict[int, int] = {}

    async def run(self, interval_s: float) -> None:
        """Look every ``interval_s`` seconds, until a node is lost."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                others = await self._group.others(self._store)
            except StoreError as error:  # nobody can say anything now
                log.warning("nodes_unknown", error=str(error))
                continue
            if (reason := self.look(others)) is not None:
                self._on_death(reason)
                return

    def look(self, others: list[Node | None]) -> str | None:
        """Compare the nodes with those that the engine began with. Returns why it is dead; None: it is not."""
        for rank, node in enumerate(others, 1):
            known = self._known.setdefault(rank, node) if node is not None else self._known.get(rank)
            if node is not None and known is not None and node.run != known.run:
                return f"the node of rank {rank} on {node.host} was started anew"
            self._missed[rank] = 0 if node is not None else self._missed.get(rank, 0) + 1
            if known is not None and self._missed[rank] >= _MISSED:
                return f"the node of rank {rank} on {known.host} is gone"
        return None
