"""The dashboards: operator, engine, batches, tenants."""

from __future__ import annotations

from tools.dashboards.bulk import ACCEPTED_BY_TENANT, BATCHES, TENANTS, WAITING_BY_TENANT
from tools.dashboards.engine import ENGINE
from tools.dashboards.fleet import ENGINES, STORES, WORKERS
from tools.dashboards.front import FRONT, QUEUE, STATE
from tools.dashboards.panels import V_INSTANCE, V_POOL, Board, Row

OPERATOR = Board(
    "penstock-operator",
    "Penstock: operator",
    "Is the GPU, the queue or a tenant the trouble? From left to right, from top to bottom.",
    (V_POOL, V_INSTANCE),
    (
        STATE,
        QUEUE,
        Row("Tenants", (WAITING_BY_TENANT, ACCEPTED_BY_TENANT)),
        ENGINES,
        FRONT,
        WORKERS,
        STORES,
    ),
)


BOARDS = (OPERATOR, ENGINE, BATCHES, TENANTS)
"""Every dashboard."""
