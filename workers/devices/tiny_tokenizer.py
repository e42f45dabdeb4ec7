"""The tokenizer of the tiny models: byte-level BPE, trained within a second on sentences over a list of words."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2: padding, the start of a message, and its end."""

END = SPECIAL[2]
"""Ends an answer."""

THOUGHTS = ("<think>", "</think>")
"""The last two ids: tokens that a model which reasons puts around its reasoning. A tiny model writes them only when a
request's ``logit_bias`` makes it."""

_WORD_LIST = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
which one you were all her she there would their we him been has when who will no more if out so up said
what its about than into them can only other time new some could these two may first then do any like my
now over such our man me even most made after also did many before must through years where much your way
well down should because each just those people how too little state good very make world still see own
work long here get both between life being under three never know same last another while us off might
great go come since against right came take used himself few house use place during high without again
home around small however found mrs thought went say part once general upon school every does got united
left number course war until always away something fact water though less public put thing almost hand
enough far took head yet better set told nothing night end why called find going look asked later next
system group knew city toward give president point within hold turbine river stone dam pipe valve pressure
gate stream flow queue token model engine worker answer question letter language science energy machine
light field sound color winter summer morning evening garden forest mountain island ocean bridge street
window door table paper story music voice heart mind body friend family mother father children brother
sister teacher doctor student market money price company business office service program problem reason
result example history law power government country nation north south east west region village road train
ship plane engineer method measure order system structure simple complex quick slow bright dark warm cold
heavy clear quiet deep shallow narrow wide strong gentle early late begin start stop open close read write
speak listen build carry follow remember forget return answer move change grow explain describe consider
include provide require suggest develop produce increase reduce improve create design test name value type
object string integer number boolean array true false null properties required arguments function
"""

WORDS = tuple(dict.fromkeys(_WORD_LIST.split()))
"""Each is one token, with a space before it or capitalised."""

_EXTRA = """
Hello! How are you today? I can help with that. Here is a short answer, and then a longer one: let us see.
{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}} <tool_call></tool_call>
def main(): return [x * 2 for x in range(10)]  # a list of even numbers
1 2 3 4 5 6 7 8 9 10 100 1000 2024 3.14 0.5
Zürich, naïve, café, 東京, привет, مرحبا, emoji 🙂
"""


def _corpus() -> Iterator[str]:
    """Yield lines of sentences over the word list, the same every time."""
    rng = random.Random(20240601)
    for _ in range(4000):
        words = rng.choices(WORDS, k=rng.randint(6, 18))
        yield " ".join(words).capitalize() + rng.choice(".?!,;:") + "\n"
    for word in WORDS:
        forms = (f"{word}{ending}" for ending in ("", "s", "ing", "ed", "er", "ly", "ness"))
        yield f" {' '.join(forms)} {word.capitalize()} un{word} re{word}\n"
    yield from (_EXTRA + "\n" for _ in range(20))


def train(vocab: int) -> Any:
    """Train the byte-level BPE tokenizer (about a second)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(THOUGHTS),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in THOUGHTS])
    if tokenizer.get_vocab_size() != vocab:
        # Ids beyond the tokenizer's would decode to nothing.
        raise RuntimeError(f"the corpus gives {tokenizer.get_vocab_size()} tokens, not {vocab}")
    return tokenizer
