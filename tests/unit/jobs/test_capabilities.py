"""The record of what a model can do."""

from jobs.capabilities import Capabilities, read


def test_only_what_is_known_is_said_and_comes_back() -> None:
    able = Capabilities(tasks=("generate",), images=0, reasoning_parser="qwen3")
    assert able.said() == {"tasks": ("generate",), "images": 0, "reasoning_parser": "qwen3"}
    assert read(able.said()) == able


def test_what_a_later_version_says_is_left_out() -> None:
    assert read({"images": 4, "smells": 2}) == Capabilities(images=4)
    assert read(None) == Capabilities()
