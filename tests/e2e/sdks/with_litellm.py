"""LiteLLM's client over chat, completions, Responses and Messages."""

from __future__ import annotations

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices

import litellm

URL, MODEL = os.environ["PENSTOCK_URL"], os.environ["PENSTOCK_MODEL"]
OURS: dict[str, Any] = {"api_base": f"{URL}/v1", "api_key": "none", "num_retries": 0}
HELLO = [{"role": "user", "content": "Hello"}]

answer = litellm.completion(model=f"openai/{MODEL}", messages=HELLO, max_tokens=16, **OURS)
assert answer.choices[0].message.content
assert answer.usage.completion_tokens > 0
chunks = list(litellm.completion(model=f"openai/{MODEL}", messages=HELLO, max_tokens=16, stream=True, **OURS))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
text = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="Hello", max_tokens=16, **OURS)
assert text.choices[0].text
try:
    litellm.completion(model="openai/nobody", messages=HELLO, **OURS)
except litellm.exceptions.NotFoundError as error:
    assert "nobody" in str(error)  # noqa: PT017 - there is no pytest here
else:
    raise AssertionError("a model that nobody serves was taken")

response = litellm.responses(model=f"openai/{MODEL}", input="Hello", max_output_tokens=16, **OURS)
assert response.output_text
events = list(
    litellm.responses(model=f"openai/{MODEL}", input="Hello", max_output_tokens=16, stream=True, **OURS)
)
assert events[0].type == "response.created"
assert events[-1].type in {"response.completed", "response.incomplete"}

theirs: dict[str, Any] = {"api_base": URL, "api_key": "none", "num_retries": 0}
message = litellm.completion(model=f"anthropic/{MODEL}", messages=HELLO, max_tokens=16, **theirs)
assert message.choices[0].message.content
chunks = list(
    litellm.completion(model=f"anthropic/{MODEL}", messages=HELLO, max_tokens=16, stream=True, **theirs)
)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
print("litellm: passed")
