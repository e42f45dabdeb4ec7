"""Made-up tokens."""

from __future__ import annotations

from workers.engines.vllm.words import palette, pick, seed_of


def test_texts_are_made_of_whole_words() -> None:
    vocabulary = {f"Ġword{'a' * n}": n for n in range(40)} | {"<end>": 100, "!": 101, "ing": 102}
    assert palette(vocabulary, special=[3]) == [n for n in range(40) if n != 3]


def test_a_vocabulary_without_words_lends_all_but_its_special_tokens() -> None:
    assert palette({"a": 5, "b": 2, "<end>": 3}, special=[3]) == [2, 5]


def test_the_choice_follows_from_every_token_of_the_prompt_and_from_the_place() -> None:
    seeds = {seed_of(prompt) for prompt in ([1, 2, 3], [3, 2, 1], [1, 2, 3, 0], [1, 2])}
    assert len(seeds) == 4
    assert seed_of([1, 2, 3]) == 0xB4FB5A8DE61ABA77  # in every process, on every machine
    chosen = [pick(seed_of([1, 2, 3]), at, 1000) for at in range(200)]
    assert len(set(chosen)) > 150
    assert all(0 <= one < 1000 for one in chosen)
