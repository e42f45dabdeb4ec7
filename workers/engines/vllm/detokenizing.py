"""Makes text of many tokens in one step. In the process that serves vLLM's front.

The engine process sends tokens in lumps (:mod:`.held_outputs`), and vLLM makes text of them one by one, which takes twice as
long. The text is the same.
"""

from __future__ import annotations

import inspect
from typing import Any

_MARK = "penstock_lumps"


def install() -> bool:
    """Have vLLM make text of lumps in one step, for fast tokenizers and requests without stop strings.

    Returns:
        False: it stays as it is, because this vLLM, or this version of ``tokenizers``, is not known.
    """
    from vllm.v1.engine import detokenizer

    fast = getattr(detokenizer, "FastIncrementalDetokenizer", None)
    if hasattr(fast, _MARK):
        return True
    if not (fast is not None and _fits(fast) and _takes_lists()):
        return False
    detokenizer.FastIncrementalDetokenizer = in_lumps(fast)
    return True


def in_lumps(one_by_one: Any) -> Any:
    """Return a subclass of vLLM's ``FastIncrementalDetokenizer`` that takes lumps."""

    class LumpDetokenizer(one_by_one):  # type: ignore[misc]
        penstock_lumps = True
        stream: Any  # vLLM's, as is the text so far
        output_text: str

        def __init__(self, tokenizer: Any, request: Any) -> None:
            super().__init__(tokenizer, request)
            self._made_of = tokenizer, request
            self._lumps = not self.stop and self.spaces_between_special_tokens
            self._lacks = False  # text of the last tokens: they may end within a character
            self._stopped = False

        def update(self, new_token_ids: list[int], stop_terminated: bool) -> str | None:  # noqa: FBT001 - vLLM's
            self._stopped = stop_terminated
            if not self._lumps or len(new_token_ids) < 2:
                stop_string: str | None = super().update(new_token_ids, stop_terminated)
                return stop_string
            shown = new_token_ids
            if stop_terminated and not self.include_stop_str_in_output:
                shown = new_token_ids[:-1]
            try:
                text = self.stream.step(self.tokenizer, shown)
            except Exception:  # noqa: BLE001 - vLLM's own way knows each, token by token
                before = self._again(self.token_ids, stopped=False)
                self.stream, self.output_text, self._lacks = before.stream, before.output_text, False
                super().update(new_token_ids, stop_terminated)
                return None
            self.token_ids.extend(new_token_ids)
            self.output_text += text or ""
            self._lacks = text is None
            return None

        def _protected_step(self, next_token_id: int) -> str | None:
            text: str | None = super()._protected_step(next_token_id)
            self._lacks = self._lacks and text is None
            return text

        def get_next_output_text(self, finished: bool, delta: bool) -> str:  # noqa: FBT001 - vLLM's
            if finished and self._lacks:  # one by one, the whole characters of the last lump have come out
                self.output_text = self._again(self.token_ids, stopped=self._stopped).output_text
                self._lacks = False
            text: str = super().get_next_output_text(finished, delta)
            return text

        def _again(self, token_ids: list[int], *, stopped: bool) -> Any:
            """Return vLLM's own detokenizer after these tokens."""
            own = one_by_one(*self._made_of)
            own.update(list(token_ids), stopped)
            return own

    return LumpDetokenizer


def _fits(fast: Any) -> bool:
    return (
        list(inspect.signature(fast.update).parameters) == ["self", "new_token_ids", "stop_terminated"]
        and list(inspect.signature(fast.get_next_output_text).parameters) == ["self", "finished", "delta"]
        and callable(getattr(fast, "_protected_step", None))
    )


def _takes_lists() -> bool:
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream
    from tokenizers.models import WordLevel

    try:
        DecodeStream(skip_special_tokens=False).step(Tokenizer(WordLevel({"a": 0})), [0, 0])
    except TypeError:
        return False
    return True
