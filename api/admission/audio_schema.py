"""The types of fields of audio calls; see :mod:`api.admission.schema` for the rules."""

from __future__ import annotations

from pydantic import Field

from api.admission.schema import Loose


class AudioRequest(Loose):
    """Fields of ``POST /v1/audio/transcriptions`` and ``/v1/audio/translations``."""

    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    file: str | None = Field(None, description="Id of an uploaded file.")
    language: str | None = None
    prompt: str | None = None
    response_format: str | None = None
    temperature: float | None = None
