"""The Celery application: tested settings (ADR 0002), the same in every process."""

from __future__ import annotations

from celery import Celery
from kombu import Queue

from broker.celery import transport
from broker.db.faults import Faults
from broker.db.keys import Keys
from broker.db.urls import celery_options, celery_url, tls_options
from jobs.lanes import Lane

TASK_NAME = "penstock.run"


def _queues(keys: Keys, pool: str) -> list[Queue]:
    """Return the lanes of a pool as Celery's queues, first served first."""
    lanes = [keys("queue", pool, lane) for lane in Lane]
    return [Queue(name, routing_key=name) for name in lanes]


def make_celery(
    redis_url: str,
    namespace: str,
    pool: str = "default",
    *,
    task_events: bool = True,
    faults: Faults | None = None,
) -> Celery:
    """Make the application.

    A Celery message stands for a job that its worker has claimed; the record in Redis owns the job. So there are no emulated
    acknowledgements (the reaper finds lost jobs), no stored results, no prefetching, and nothing that holds a message back.

    Args:
        redis_url: as redis-py reads it.
        task_events: emit the events that Flower shows.
        faults: where a claim that Redis refuses is reported; None: the log alone.
    """
    transport.install()
    keys = Keys(namespace)
    app = Celery("penstock", broker=celery_url(redis_url), set_as_current=False)
    app.conf.update(
        broker_transport_options={
            "ack_emulation": False,
            "priority_steps": [0],
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 5,
            transport.FAULTS: faults or Faults(),
            **celery_options(redis_url),
        },
        broker_use_ssl=tls_options(redis_url) or False,  # Flower takes it from here alone
        broker_channel_error_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=_queues(keys, pool),
        task_default_queue=keys("queue", pool, Lane.NORMAL),
        task_create_missing_queues=False,
        task_acks_late=True,
        task_ignore_result=True,
        task_track_started=True,
        task_send_sent_event=False,
        task_serializer="json",
        accept_content=["json"],
        worker_send_task_events=task_events,
        worker_prefetch_multiplier=0,
        worker_disable_rate_limits=True,
        worker_soft_shutdown_timeout=0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app
