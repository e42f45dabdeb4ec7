"""The envelope: a template of Celery's message, learned from Celery.

No message of a job lies in Redis. A worker claims a job, and its transport hands Celery the message that Celery would have
published for it. To learn that, a worker lets Celery publish one to a queue in the process's memory, and makes the task id
and the queue in it placeholders. ``tests/integration/test_envelope.py`` compares it with a real publish over Redis.
"""

from __future__ import annotations

import base64
from typing import Any, cast

import msgspec
from celery import Celery
from kombu import Connection, Queue
from kombu.utils.json import dumps

from broker.celery.app import TASK_NAME

ID = "@ID@"
QUEUE = "@QUEUE@"

_read = msgspec.json.Decoder(dict[str, Any]).decode


class Envelope:
    """Makes the message of a job.

    Args:
        text: the template, see :func:`learn_envelope`.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def message(self, job_id: str, queue: str) -> dict[str, Any]:
        """Return the message of a job that came from ``queue``."""
        return _read(self._text.replace(ID, job_id).replace(QUEUE, queue))


def learn_envelope(app: Celery) -> Envelope:
    """Let Celery publish one message, and return its template. Nothing leaves this process.

    Args:
        app: as the worker uses it.
    """
    with Connection("memory://") as connection:
        app.send_task(
            TASK_NAME,
            (ID,),
            task_id=ID,
            queue=cast("str", Queue(QUEUE, routing_key=QUEUE)),  # the stubs know names only
            argsrepr=f"({ID!r},)",
            kwargsrepr="{}",
            connection=connection,
        )
        channel: Any = connection.default_channel
        message = channel._get(QUEUE)  # noqa: SLF001 - as it was published; the public ways decode it
    return Envelope(template(message))


def template(message: dict[str, Any]) -> str:
    """Return a published message as a template. It does not name its publisher, whose process may be gone."""
    message["body"] = base64.b64decode(message["body"]).decode()
    message["headers"].pop("origin", None)
    message["properties"].pop("reply_to", None)
    message["properties"] |= {"body_encoding": "utf-8", "delivery_tag": ID}
    return dumps(message)
