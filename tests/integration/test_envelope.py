"""The Celery message that the scripts push is the one that Celery itself would publish."""

from __future__ import annotations

import base64
import json

import pytest
from redis import Redis

from broker.celery.app import TASK_NAME, make_celery
from broker.celery.envelope import learn_envelope, template
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.model import JobSpec
from tests.support import new_id

VOLATILE = {"origin", "reply_to"}
"""Names the publishing process; Celery uses them for results and inspection, which we do not."""


def normal(message: dict) -> dict:
    properties = dict(message["properties"])
    body = message["body"]
    if properties.pop("body_encoding") == "base64":
        body = base64.b64decode(body).decode()
    properties.pop("delivery_tag")  # a real publish draws a random one
    properties.pop("reply_to", None)
    headers = {k: v for k, v in message["headers"].items() if k not in VOLATILE}
    rest = {k: v for k, v in message.items() if k not in {"body", "properties", "headers"}}
    return {"body": json.loads(body), "properties": properties, "headers": headers, **rest}


@pytest.mark.asyncio
async def test_ours_equals_a_real_publish(store: JobStore, broker_settings: BrokerSettings) -> None:
    app = make_celery(broker_settings.redis_url, broker_settings.namespace)
    job_id = new_id()
    queue = store.keys("queue", "default", Lane.HIGH)
    with Redis.from_url(broker_settings.redis_url) as client:
        app.send_task(
            TASK_NAME, (job_id,), task_id=job_id, queue=queue, argsrepr=f"('{job_id}',)", kwargsrepr="{}"
        )
        real = json.loads(client.rpop(queue))
        await store.accept(JobSpec(job_id, "/v1/completions", "m", b"{}", lane=Lane.HIGH))
        ours = json.loads(client.rpop(queue))
    assert normal(ours) == normal(real)
    assert ours["properties"]["delivery_tag"] == job_id


def test_learning_leaves_nothing_behind(broker_settings: BrokerSettings) -> None:
    app = make_celery(broker_settings.redis_url, broker_settings.namespace)
    with Redis.from_url(broker_settings.redis_url) as client:
        before = set(client.scan_iter("*_penstock.envelope*"))
        envelope = learn_envelope(app, client)
        assert set(client.scan_iter("*_penstock.envelope*")) == before == set()
    assert "@QUEUE@" in envelope
    assert envelope.count("@ID@") >= 4


def test_template_names_the_queue_everywhere() -> None:
    message = {
        "body": base64.b64encode(b"[]").decode(),
        "properties": {"delivery_info": {"routing_key": "q.x"}},
    }
    made = json.loads(template(message, "q.x"))
    assert made["properties"]["delivery_info"]["routing_key"] == "@QUEUE@"
