"""All routes of the console."""

from __future__ import annotations

from fastapi import APIRouter

from api.console import assets, live, series
from api.console.frame import Frame
from api.console.pages import access, batches, dead, job, jobs, login, playground, queues, usage, workers
from api.console.session import Sessions
from api.services import Services
from api.settings import ApiSettings

PAGES = (queues, jobs, job, dead, workers, batches, playground, usage, access)
"""The modules that add pages, in the order of the navigation."""


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    frame = Frame(services, sessions(services.settings))
    for page in PAGES:
        page.register(router, frame)
    login.register(router, frame)
    live.register(router, frame)
    series.register(router, frame)
    assets.register(router)


def sessions(settings: ApiSettings) -> Sessions | None:
    """Return who seals the sessions; None: no keys are required, so there are none."""
    pepper = settings.pepper() if settings.keys_required else None
    return None if pepper is None else Sessions(pepper)
