"""Every metric of Penstock, each with its unit and a sentence. Series with labels start at 0.

Each process makes its own objects on a registry of its choice; importing this package registers nothing. No label holds
a job id or any other unbounded value.

=======================  ==========================================================================
:class:`ApiMetrics`      one api process: its requests, errors and accepted jobs
:class:`AcceptedJobs`    the jobs that one api process or coordinator put into a queue
:class:`SharedState`     what is in Redis, the same in every api process: queues, workers, Redis itself
:class:`WorkerMetrics`   one worker: attempts, times, tokens
:class:`EngineGauges`    its engine, read at the scrape
:class:`Gpus`            its GPUs, read from the NVIDIA driver; no series without a driver
:class:`DataDisk`        the disks under a process's folders
=======================  ==========================================================================

The page ``docs/reference/metrics.md`` is generated from these.
"""

from monitoring.metrics.api import ApiMetrics
from monitoring.metrics.common import (
    LATENCY_BUCKETS_S,
    OTHER_TENANT,
    REAPER_ACTIONS,
    AcceptedJobs,
    Children,
    TenantNames,
    WithoutTenants,
    set_up,
)
from monitoring.metrics.disk import DataDisk
from monitoring.metrics.engine import EngineGauges
from monitoring.metrics.gpu import Gpus
from monitoring.metrics.serve import serve_metrics
from monitoring.metrics.shared import SharedState
from monitoring.metrics.worker import BATCH_ROW_OUTCOMES, JOB_ENDS, WorkerMetrics

__all__ = [
    "BATCH_ROW_OUTCOMES",
    "JOB_ENDS",
    "LATENCY_BUCKETS_S",
    "OTHER_TENANT",
    "REAPER_ACTIONS",
    "AcceptedJobs",
    "ApiMetrics",
    "Children",
    "DataDisk",
    "EngineGauges",
    "Gpus",
    "SharedState",
    "TenantNames",
    "WithoutTenants",
    "WorkerMetrics",
    "serve_metrics",
    "set_up",
]
