"""Webhook endpoints as JSON: what clients send and see."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs.webhooks import ALL, EVENT_GROUPS, EVENT_TYPES, subscription

_DAY_S = 86_400
_WEEK_S = 7 * _DAY_S

Url = Annotated[str, Field(min_length=1, max_length=2048)]
Names = Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=64)]
Text = Annotated[str, Field(max_length=256)]

_URL = "Where events are sent with POST: https, without a user or a fragment, on a public address unless an operator allows"
_URL += " others."
_EVENTS = (
    f"Types of events, or groups. The groups are {', '.join(f'`{one}`' for one in (ALL, *EVENT_GROUPS))}, "
)
_EVENTS += f"the types {', '.join(f'`{one}`' for one in EVENT_TYPES)}."


def _known(names: list[str] | None) -> list[str] | None:
    if names is not None:
        subscription(names)
    return names


class WebhookRequest(BaseModel):
    """Body of the call that makes an endpoint."""

    model_config = ConfigDict(extra="forbid")

    url: Url = Field(description=_URL)
    events: Names = Field([ALL], description=f"{_EVENTS} Default: all.")
    description: Text = Field("", description="For people.")

    _check = field_validator("events")(_known)


class WebhookChange(BaseModel):
    """Body of the call that changes an endpoint. What it leaves out stays."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = Field(None, description=_URL)
    events: Names | None = Field(None, description=_EVENTS)
    description: Text | None = None
    state: Literal["active", "disabled"] | None = Field(
        None,
        description="A disabled endpoint gets nothing. What happens is kept for it, up to 100,000 events.",
    )

    _check = field_validator("events")(_known)

    @model_validator(mode="after")
    def _something(self) -> WebhookChange:
        if not self.model_fields_set:
            raise ValueError("the body changes nothing; give url, events, description or state")
        return self

    def changes(self) -> dict[str, Any]:
        """Return what :meth:`broker.webhooks.Webhooks.update` takes."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        if "state" in given:
            given["active"] = given.pop("state") == "active"
        return given


class SecretRotation(BaseModel):
    """Body of the call that makes a new secret. Optional."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(
        _DAY_S, ge=0, le=_WEEK_S, description="How long the secret until now signs, too; 0: no more."
    )


class WebhookObject(BaseModel):
    """A webhook endpoint, without its secret."""

    id: str = Field(examples=["wh_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"])
    object: Literal["webhook"]
    tenant: str
    url: str
    events: list[str]
    description: str
    state: Literal["active", "disabled"]
    disabled_reason: str | None = Field(
        description="`failing` (every try failed for days) or `gone` (it answered 410); null: somebody disabled it, or it"
        " is active."
    )
    created_at: int = Field(description="Unix seconds.")
    overlap_until: int | None = Field(
        description="Unix seconds: until then the secret before the last rotation signs, too; null: it does not."
    )
    pending: int = Field(description="Events that are not delivered yet.")
    dead: int = Field(description="Events that were given up, of the last ones.")


class NewWebhookObject(WebhookObject):
    """An endpoint with its secret. No other answer has it."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class WebhookList(BaseModel):
    """A page of endpoints."""

    object: Literal["list"]
    data: list[WebhookObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookDeleted(BaseModel):
    """An endpoint is gone."""

    id: str
    object: Literal["webhook"]
    deleted: Literal[True]


class WebhookSecretObject(BaseModel):
    """The secret that signs events of single jobs and batches, whose submission named a `webhook_url`."""

    object: Literal["webhook.secret"]
    secret: str


class EventObject(BaseModel):
    """An event."""

    id: str = Field(examples=["evt_0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33"])
    type: str = Field(examples=["job.succeeded"])
    object_id: str = Field(examples=["job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"])
    created_at: float = Field(description="When it happened, Unix seconds.")


class DeliveryObject(BaseModel):
    """One try to deliver an event."""

    id: str
    object: Literal["webhook.delivery"]
    event: EventObject
    attempt: int = Field(description="Of this event, from 1.")
    at: float = Field(description="When it ended, Unix seconds.")
    delivered: bool
    status: int | None = Field(description="HTTP status of the answer; null: there was none.")
    error: str | None = Field(description="Why there was no answer.")
    took_ms: int
    answer: str = Field(description="The beginning of the answer's body, 2 KiB at most.")


class DeliveryList(BaseModel):
    """A page of tries."""

    object: Literal["list"]
    data: list[DeliveryObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeadLetterObject(BaseModel):
    """An event that was given up."""

    id: str
    object: Literal["webhook.dead_letter"]
    event: EventObject
    reason: str = Field(
        description="`failed` (every try of a day failed), or `overflow` (100,000 events waited)."
    )
    attempts: int
    at: float = Field(description="When it was given up, Unix seconds.")


class DeadLetterList(BaseModel):
    """A page of dead letters."""

    object: Literal["list"]
    data: list[DeadLetterObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class SentObject(BaseModel):
    """An event that is on its way."""

    id: str = Field(description="The event's id.")
    object: Literal["webhook.event"]
    webhook_id: str
