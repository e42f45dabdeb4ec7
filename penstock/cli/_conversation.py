"""A conversation of ``penstock chat``: what was said, and its file. Apart from the files, no I/O."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IMAGE_MAX_BYTES = 20 * 1024**2
"""The server's default bound; a larger image would be refused after its upload."""

_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


class ConversationError(Exception):
    """A file of a conversation or an image cannot be used. The message names it and says why."""


@dataclass(slots=True)
class Conversation:
    """What was said so far.

    Attributes:
        model: who answers.
        system: the instructions that come first; None: none.
        messages: of the user and the model, in turns.
        images: as ``data:`` URLs, for the next message.
        file: where it was saved to or loaded from last.
        unanswered: a message that got no answer, for :meth:`ask_again`; it is no part of the conversation.
    """

    model: str
    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    file: Path | None = None
    unanswered: dict[str, Any] | None = None

    def ask(self, text: str) -> None:
        """Add a message of the user, with the images that wait for it."""
        content: str | list[dict[str, Any]] = text
        if self.images:
            shown = [{"type": "image_url", "image_url": {"url": url}} for url in self.images]
            content = [*shown, {"type": "text", "text": text}]
        self.messages.append({"role": "user", "content": content})
        self.images, self.unanswered = [], None

    def answered(self, text: str) -> None:
        """Add the model's answer, whole or as far as it came. An empty one is none: the message is taken back."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        elif self.messages and self.messages[-1]["role"] == "user":
            self.unanswered = self.messages.pop()

    def ask_again(self) -> bool:
        """Open the last message again, and forget its answer; return whether there is one."""
        if self.unanswered is not None:
            self.messages.append(self.unanswered)
            self.unanswered = None
        elif self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return bool(self.messages)

    def clear(self) -> None:
        """Forget all that was said; the model and the instructions stay."""
        self.messages, self.images, self.unanswered = [], [], None

    def body(self) -> dict[str, Any]:
        """Return the request that asks for the next answer."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {"model": self.model, "messages": [*first, *self.messages]}

    def attach(self, path: Path) -> None:
        """Read an image, for the next message.

        Raises:
            ConversationError: it cannot be read, is too large, or is no image.
        """
        try:
            with path.open("rb") as file:
                data = file.read(IMAGE_MAX_BYTES + 1)
        except OSError as error:
            raise ConversationError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) > IMAGE_MAX_BYTES:
            raise ConversationError(f"{path} has more than {IMAGE_MAX_BYTES // 1024**2} MiB; scale it down")
        kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)
        if kind is None:
            raise ConversationError(f"{path} is no PNG, JPEG, GIF or WebP image")
        self.images.append(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")

    def save(self, path: Path) -> None:
        """Write it as the body of a chat completion, which ``penstock submit --input`` takes too.

        Raises:
            ConversationError: the file is there and is not this conversation's, or it cannot be written.
        """
        if path.exists() and path != self.file:
            raise ConversationError(f"{path} exists already; choose another name")
        try:
            path.write_text(json.dumps(self.body(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except (OSError, UnicodeEncodeError) as error:
            raise ConversationError(f"{path} cannot be written: {error}") from error
        self.file = path

    def load(self, path: Path) -> None:
        """Take the place of this conversation by a saved one; its model stays if the file names none.

        Raises:
            ConversationError: the file cannot be read, or is no conversation. Nothing has changed then.
        """
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConversationError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConversationError(f"{path} is not JSON: {error}") from error
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise ConversationError(
                f"{path} is no conversation: it has no list of messages with role and content"
            )
        first = messages[:1] if messages and messages[0]["role"] == "system" else []
        self.system = _text(first[0]["content"]) if first else None
        self.messages = messages[len(first) :]
        self.model = str(body.get("model") or self.model)
        self.images, self.unanswered, self.file = [], None, path


def _is_message(one: Any) -> bool:
    return isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one


def _text(content: str | Sequence[dict[str, Any]] | None) -> str:
    """Return a message's text, which may be in parts."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
