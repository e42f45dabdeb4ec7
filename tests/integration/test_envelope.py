"""The Celery message of a claimed job is the one that Celery itself would publish, and its consumer takes it as such."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from celery import Celery
from celery.worker.request import Request
from kombu.message import Message
from redis import Redis

from broker.celery.app import TASK_NAME, make_celery
from broker.celery.envelope import learn_envelope
from broker.db.keys import Keys
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from tests.support import new_id
from workers.celery.app import register_task


@pytest.fixture
def app(broker_settings: BrokerSettings) -> Celery:
    return make_celery(broker_settings.redis_url, broker_settings.namespace)


@pytest.fixture
def queue(broker_settings: BrokerSettings) -> str:
    return Keys(broker_settings.namespace)("queue", "default", Lane.HIGH)


def published(app: Celery, url: str, job_id: str, queue: str) -> dict[str, Any]:
    """Let Celery publish a message over Redis, and return it."""
    with Redis.from_url(url) as client:
        app.send_task(
            TASK_NAME, (job_id,), task_id=job_id, queue=queue, argsrepr=f"('{job_id}',)", kwargsrepr="{}"
        )
        message: dict[str, Any] = json.loads(client.rpop(queue))
        return message


def normal(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without what each publish draws or names anew: its sender, where to answer, its tag."""
    properties, headers, body = dict(message["properties"]), dict(message["headers"]), message["body"]
    if properties.pop("body_encoding") == "base64":
        body = base64.b64decode(body).decode()
    for volatile in ("delivery_tag", "reply_to"):
        properties.pop(volatile, None)
    headers.pop("origin", None)
    return message | {"body": json.loads(body), "properties": properties, "headers": headers}


def test_ours_equals_a_real_publish(app: Celery, broker_settings: BrokerSettings, queue: str) -> None:
    job_id = new_id()
    ours = learn_envelope(app).message(job_id, queue)
    assert normal(ours) == normal(published(app, broker_settings.redis_url, job_id, queue))
    assert ours["properties"]["delivery_tag"] == job_id


def test_celery_makes_the_same_request_of_it(
    app: Celery, broker_settings: BrokerSettings, queue: str
) -> None:
    register_task(app)
    job_id = new_id()

    def request(payload: dict[str, Any]) -> Request:
        with app.connection_for_read() as connection:
            message: Any = connection.channel().message_to_python(payload)
            assert isinstance(message, Message)
            return Request(message, app=app, task=app.tasks[TASK_NAME], body=message.body, decoded=False)

    ours = request(learn_envelope(app).message(job_id, queue))
    real = request(published(app, broker_settings.redis_url, job_id, queue))
    for one in (ours, real):
        assert (one.id, one.name, list(one.args), dict(one.kwargs)) == (job_id, TASK_NAME, [job_id], {})
    assert ours.argsrepr == real.argsrepr
    assert ours.delivery_info == real.delivery_info
    assert ours.delivery_info["routing_key"] == queue
    assert ours.content_type == real.content_type


def test_learning_touches_no_redis_and_names_nobody(queue: str) -> None:
    """A message does not tell by which process it was learned."""
    app = make_celery("redis://127.0.0.1:1/0", "n")
    message = learn_envelope(app).message("job_1", queue)
    assert f"{os.getpid()}@" not in json.dumps(message)
    assert message == learn_envelope(app).message("job_1", queue)
    assert message["properties"]["delivery_info"]["routing_key"] == queue
