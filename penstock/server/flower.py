"""Flower on Penstock's queue: its own command, with our Celery application and quiet defaults."""

from __future__ import annotations

from typing import Any

from api.http.addresses import is_loopback
from broker.celery.app import make_celery
from monitoring.logging import configure_logging
from penstock.server.settings import FlowerSettings


class FlowerStartError(Exception):
    """Flower may not, or cannot, start as asked."""


def run_flower(
    overrides: dict[str, Any],
    *,
    address: str,
    port: int,
    basic_auth: tuple[str, ...] = (),
    url_prefix: str | None = None,
    without_auth: bool = False,
) -> None:
    """Run Flower in this process until SIGTERM or SIGINT.

    Args:
        overrides: settings given on the command line; the rest comes from the environment and the files.
        address: where it listens.
        port: its port.
        basic_auth: ``user:password`` pairs; none means the setting ``flower_basic_auth``, and without that no login.
        url_prefix: path under which a proxy serves it.
        without_auth: allow an address that others reach although there is no login.

    Raises:
        pydantic.ValidationError: a bad setting.
        FlowerStartError: no login at an address that others reach, or the port is taken.
    """
    settings = FlowerSettings(**overrides)
    logins = ",".join(basic_auth)
    if not logins and settings.flower_basic_auth is not None:
        logins = settings.flower_basic_auth.get_secret_value()
    if not (logins or without_auth or is_loopback(address)):
        raise FlowerStartError(
            f"at {address or 'every address'} anyone could see prompts' job ids and revoke jobs:"
            " set a login with PENSTOCK_FLOWER_BASIC_AUTH=USER:PASSWORD (or --basic-auth),"
            " or allow it with --without-auth"
        )
    configure_logging(settings.log_level, as_json=settings.log_json, service="flower")
    options = [f"--address={address}", f"--port={port}", "--persistent=False"]
    if not settings.task_events:
        options.append("--enable_events=False")  # else it turns every worker's events on, every 5 s
    if logins:
        options.append(f"--basic_auth={logins}")
    if url_prefix:
        options.append(f"--url_prefix={url_prefix}")
    app = make_celery(settings.redis_url, settings.namespace, task_events=settings.task_events)
    try:
        app.start(["--quiet", "flower", *options])
    except OSError as error:
        raise FlowerStartError(f"cannot listen on {address}:{port}: {error.strerror}") from error
