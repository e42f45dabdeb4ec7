"""The types of fields of audio calls; see :mod:`api.admission.schema` for the rules.

The fields of a form are texts, which pydantic reads in its lax mode, as the engine does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.admission.schema import Loose, LooseList

_Form = Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"]


class AudioRequest(Loose):
    """Fields of ``POST /v1/audio/transcriptions`` and ``/v1/audio/translations``."""

    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    file: str | None = Field(None, description="The audio; as a job's input, the id of an uploaded file.")
    language: str | None = Field(
        None, description="Of the audio, such as `en`; without it the model listens."
    )
    prompt: str | None = Field(None, description="A text that the audio continues.")
    response_format: _Form | None = Field(None, description="Default: `json`.")
    temperature: float | None = None
    stream: bool | None = Field(None, description="Answer with Server-Sent Events while it generates.")
    timestamp_granularities: Annotated[LooseList[Literal["word", "segment"]], Field(max_length=2)] | None = (
        Field(None, alias="timestamp_granularities[]")
    )
    max_completion_tokens: int | None = None
    seed: int | None = None
