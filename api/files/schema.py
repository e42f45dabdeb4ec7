"""File objects and the upload form, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.http.expiry import MAX_S, MIN_S

PURPOSES = ("batch", "user_data", "assistants", "vision", "fine-tune", "evals")
"""The purposes of an upload. Batches read files of ``batch``; the others are only stored."""

UPLOAD_FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": list(PURPOSES)},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": MIN_S, "maximum": MAX_S},
                },
            }
        }
    },
}


class FileObject(BaseModel):
    """A file, as OpenAI describes it."""

    id: str = Field(examples=["file-0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"])
    object: Literal["file"]
    bytes: int
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = Field(description="Unix seconds; null: kept until it is deleted.")
    filename: str
    purpose: str = Field(examples=["batch", "batch_output"])
    status: Literal["processed"]
    status_details: None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: Literal["file"]
    deleted: bool
