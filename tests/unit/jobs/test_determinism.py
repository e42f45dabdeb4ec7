"""Which requests have one answer."""

from __future__ import annotations

import pytest

from jobs.determinism import is_deterministic
from jobs.endpoints import CHUNK_ENDPOINT, ENDPOINTS


@pytest.mark.parametrize("one", ENDPOINTS.values(), ids=lambda one: one.path)
def test_what_generates_nothing_has_one_answer(one) -> None:
    plain = is_deterministic(one.path, None, None)
    assert plain == (not one.limit_fields and not one.multipart)
    assert is_deterministic(one.path, 0, None)
    assert is_deterministic(one.path, 0.7, 5)
    assert is_deterministic(one.path, 0.7, None) == plain


def test_an_unknown_endpoint_may_answer_anything() -> None:
    assert not is_deterministic(CHUNK_ENDPOINT, None, None)
