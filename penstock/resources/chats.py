"""Chats that are answered at once, for both clients: ``client.chats``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock._core import chats
from penstock._core.flows import Items
from penstock._core.parts import Driver, Iteration, Part


class Chats(Part[Driver]):
    """Ask a model, and read its answer as it is generated."""

    @Iteration
    def stream(
        self, body: Mapping[str, Any], *, on_accepted: Callable[[str], object] | None = None
    ) -> Items[dict[str, Any]]:
        """Send a chat completion and yield the chunks of its answer; the last one has the usage.

        To close the iterator cancels the answer. For the whole of OpenAI's API use OpenAI's own client.

        Args:
            body: as OpenAI's, with ``model`` and ``messages``.
            on_accepted: is called with the id of the answer's job as soon as that waits in the queue, so that its place
                can be asked for; both clients call it directly. A refusal after that comes within the stream.

        Raises:
            APIConnectionError: no answer, or one that was cut off.
            APIStatusError: the server refused, or the answer failed.
            APIResponseError: the answer is no stream.
        """
        return chats.stream(body, self._settings.calls, on_accepted)
