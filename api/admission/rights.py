"""What a tenant may do: submit at all, and in which lanes. Its models are checked where a request finds its model."""

from __future__ import annotations

from api.http.errors import ApiError
from api.services import Services
from jobs.lanes import Lane
from jobs.tenants import Tenant, TenantState


async def check_lane(services: Services, tenant: str, lane: Lane) -> Tenant:
    """Refuse work that its tenant may not submit, or not in this lane. Returns the tenant.

    Raises:
        ApiError: 403 ``tenant_suspended`` or ``lane_not_allowed``.
        StoreUnavailableError: the tenant is not known yet, and Redis is away.
    """
    found = await check_active(services, tenant)
    if found.may_use(lane):
        return found
    may = ", ".join(found.lanes or ()) or "none"
    what = "OpenAI calls, which use the lane `realtime`" if lane is Lane.REALTIME else f"the lane `{lane}`"
    message = f"the tenant may not use {what}; its lanes are: {may}; an administrator can change that"
    raise ApiError(403, message, "lane_not_allowed", param="priority")


async def check_active(services: Services, tenant: str) -> Tenant:
    """Refuse a tenant that is suspended. Returns the tenant.

    Raises:
        ApiError: 403 ``tenant_suspended``.
        StoreUnavailableError: the tenant is not known yet, and Redis is away.
    """
    found = await services.known_tenants.get(tenant)
    if found.state is TenantState.SUSPENDED:
        message = "the tenant is suspended: it can read its objects, and submit nothing; ask an administrator"
        raise ApiError(403, message, "tenant_suspended")
    return found
