"""OpenAI's ``service_tier``: the lane that a call waits in, and what its answer says of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from api.admission.rights import check_active
from api.http.errors import ApiError, invalid
from api.services import Services
from jobs.lanes import Lane


class Tier(NamedTuple):
    """How a call is served.

    Attributes:
        lane: the lane it waits in.
        shown: members of its answer, see :attr:`jobs.model.JobSpec.shown`.
    """

    lane: Lane
    shown: Mapping[str, Any]


def _tier(lane: Lane, name: str) -> Tier:
    return Tier(lane, MappingProxyType({"service_tier": name}))


UNSAID: Final = Tier(Lane.REALTIME, MappingProxyType({}))
"""The tier of a call that names none. Its answer keeps the engine's bytes."""

_PRIORITY: Final = "priority"
_DEFAULT: Final = _tier(Lane.REALTIME, "default")
_TIERS: Final = {
    "auto": _DEFAULT,
    "default": _DEFAULT,
    "scale": _DEFAULT,
    _PRIORITY: _tier(Lane.REALTIME, _PRIORITY),
    "flex": _tier(Lane.LOW, "flex"),
}
STANDARD_ONLY: Final = "standard_only"
"""A tier of Anthropic's: no other than the usual one. Its answers say nothing of it."""


async def tier_of(services: Services, tenant: str, request: Mapping[str, Any]) -> Tier:
    """Return the tier that a request asks for.

    Args:
        tenant: who asks. ``priority`` is for tenants that may use the lane ``high``.
        request: its body, parsed.

    Raises:
        ApiError: 400, there is no such tier; 403, the tenant has no right to it, or is suspended.
        StoreUnavailableError: the tenant is not known yet, and Redis is away.
    """
    name = request.get("service_tier")
    if name is None or name == STANDARD_ONLY:
        return UNSAID
    tier = _TIERS.get(name) if isinstance(name, str) else None
    if tier is None:
        raise invalid(f"service_tier: it must be one of {', '.join(_TIERS)}", "service_tier", "invalid_value")
    if name == _PRIORITY and not (await check_active(services, tenant)).may_use(Lane.HIGH):
        message = (
            "the tenant may not use the service tier `priority`, which needs the lane `high`; an administrator can change"
            " that"
        )
        raise ApiError(403, message, "lane_not_allowed", param="service_tier")
    return tier
