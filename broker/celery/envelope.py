"""The envelope: a template of Celery's message, learned from Celery.

``accept`` creates a job's record and its queue message in one script, which ``apply_async`` cannot do. To get Celery's own
message, Celery publishes one to a throwaway queue; we read it back and replace the task id and the queue by placeholders.
``tests/integration/test_envelope.py`` compares it with a real publish.
"""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any, cast

from celery import Celery
from kombu import Queue
from kombu.exceptions import KombuError, OperationalError
from redis import Redis
from redis.exceptions import RedisError

from broker.celery.app import TASK_NAME, make_celery
from broker.db.client import connect_sync
from broker.db.errors import StoreUnavailableError
from broker.db.faults import Faults, is_fault
from broker.db.keys import Keys
from broker.db.urls import without_password

ID = "@ID@"
QUEUE = "@QUEUE@"


def learn_envelope(app: Celery, client: Redis) -> str:
    """Let Celery publish one message and return it as a template with ``@ID@`` and ``@QUEUE@``.

    Args:
        client: a synchronous client of the same Redis database.
    """
    queue = f"_penstock.envelope.{uuid.uuid4().hex}"
    app.send_task(
        TASK_NAME,
        (ID,),
        task_id=ID,
        queue=cast("str", Queue(queue, routing_key=queue)),  # the stubs know names only
        argsrepr=f"({ID!r},)",
        kwargsrepr="{}",
    )
    raw = client.rpop(queue)
    client.delete(f"_kombu.binding.{queue}")
    return template(json.loads(raw), queue)  # type: ignore[arg-type]


def learn_at(redis_url: str, namespace: str, faults: Faults) -> str:
    """Learn the envelope at an address. Blocks; one try.

    Args:
        faults: where a refusal is reported.

    Raises:
        StoreUnavailableError: Redis cannot be reached.
        StoreFaultError: it refuses one of Celery's commands.
    """
    app = make_celery(redis_url, namespace)
    app.conf.update(broker_connection_retry=False, broker_connection_max_retries=1, task_publish_retry=False)
    client = connect_sync(redis_url)
    try:
        client.ping()
        return learn_envelope(app, client)
    except KombuError as error:
        raise StoreUnavailableError(str(error)) from error
    except (RedisError, OSError) as error:
        raise faults.translate(error, "a message of Celery's") from error
    finally:
        client.close()
        app.close()


def template(message: dict[str, Any], queue: str) -> str:
    """Turn a Celery message, sent with the task id ``@ID@`` to ``queue``, into the template."""
    message["body"] = base64.b64decode(message["body"]).decode()
    message["properties"] |= {"body_encoding": "utf-8", "delivery_tag": ID}
    return json.dumps(message).replace(queue, QUEUE)


def greet(app: Celery, url: str, keys: Keys, faults: Faults) -> None:
    """Publish the envelope, which also checks that Redis answers and writes.

    Args:
        faults: where a refusal is reported.

    Raises:
        StoreUnavailableError: it does not.
        StoreFaultError: it refuses one of the commands.
    """
    try:
        with connect_sync(url) as client:
            publish_envelope(app, client, keys)
    except (RedisError, OSError, OperationalError) as error:
        if isinstance(error, RedisError) and is_fault(error):
            raise faults.translate(error, "a message of Celery's") from error
        raise StoreUnavailableError(f"cannot reach Redis at {without_password(url)}: {error}") from error


def publish_envelope(app: Celery, client: Redis, keys: Keys) -> None:
    """Learn the envelope and store it for the scripts."""
    client.set(keys("envelope"), learn_envelope(app, client))
