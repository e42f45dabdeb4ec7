"""What every wire model has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Wire(BaseModel):
    """What the server sends, frozen and typed.

    Fields that this version does not know are kept (``model_extra``), so an older client can read a newer server.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
