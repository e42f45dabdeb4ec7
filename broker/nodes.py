"""What the remote nodes of an engine say of themselves: that they live, and since when."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from broker.jobs import JobStore


class Node(msgspec.Struct, frozen=True):
    """A remote node.

    Attributes:
        host: its machine's name.
        run: changes with every start of its engine processes.
    """

    host: str
    run: str


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """The nodes of one engine.

    Attributes:
        pool: its worker's.
        master: ``host:port`` of the first node, where the others join it.
        nodes: how many, with the first.
    """

    pool: str
    master: str
    nodes: int

    def _key(self, store: JobStore, rank: int) -> str:
        return store.keys("node", self.pool, f"{self.master}:{rank}")

    async def say(self, store: JobStore, rank: int, node: Node, ttl_s: float) -> None:
        """Tell for ``ttl_s`` seconds that a node lives.

        Raises:
            StoreUnavailableError: Redis cannot be reached.
        """
        text = msgspec.json.encode(node)
        await store.execute(store.client.set(self._key(store, rank), text, px=int(ttl_s * 1000)))

    async def gone(self, store: JobStore, rank: int) -> None:
        """Tell that a node has ended."""
        await store.execute(store.client.delete(self._key(store, rank)))

    async def others(self, store: JobStore) -> list[Node | None]:
        """Return the nodes of rank 1 and up; None: it does not live.

        Raises:
            StoreUnavailableError: Redis cannot be reached.
        """
        keys = [self._key(store, rank) for rank in range(1, self.nodes)]
        texts = await store.execute(store.client.mget(keys))
        return [None if text is None else msgspec.json.decode(text, type=Node) for text in texts]

    async def first(self, store: JobStore) -> frozenset[str]:
        """Return the live incarnations of the worker that is the first node: one, or two for the moment of a restart."""
        return frozenset(
            said["incarnation"]
            for said in await store.workers()
            if said.get("pool") == self.pool and said.get("node_master") == self.master
        )
