"""Writes wordllama.json: what the Python package wordllama says about a few texts.

    python -m venv venv && venv/bin/pip install wordllama==0.4.0.post1
    venv/bin/python crates/models/tests/golden/make.py > crates/models/tests/golden/wordllama.json

The weights and the tokenizer inside that package are the ones of the runtime directory. Each text
comes with its number of tokens, the length of the mean vector, and the mean vector scaled to
length 1 (all values of the first text, the first eight of the others, and a sum over all weighted
by position, so that no value can differ unseen).
"""

import json
import pathlib
import sys

import numpy
import wordllama
from safetensors import safe_open
from tokenizers import Tokenizer
from wordllama.inference import WordLlamaInference

TEXTS = [
    "Streams carry events from stage to stage until a document can be searched.",
    "A nota fiscal vence em trinta dias, e o riacho leva as águas até o rio.",
    "川は山から海へ流れます。請求書の支払期限は三十日後です。",
    "Größe, naïve, Ångström, Привет мир, مرحبا بالعالم, 你好世界",
    "# Heading\n\nFirst line\nsecond line\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "  leading,   inner    and trailing spaces   ",
    "\n\nbegins with breaks\r\n\tand has a tab and a no-break\u00a0space",
    "literal \u2581 marks\u2581of the tokenizer",
    "markup <s>struck</s> out <unk> and a < b",
    "emoji 🏞️🌊 and a rare sign 𝕽 and a control \u0007",
    "x",
    " ",
    "https://example.org/a/very/long/path?with=query&and=0123456789abcdef0123456789abcdef#fragment",
    "The quick brown fox jumps over the lazy dog. " * 40,
]


def load():
    # WordLlama.load() of this version does not find the tokenizer inside its own package.
    package = pathlib.Path(wordllama.__file__).parent
    with safe_open(package / "weights" / "l2_supercat_256.safetensors", framework="np") as file:
        weights = file.get_tensor("embedding.weight")
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    return WordLlamaInference(weights, tokenizer)


def main():
    model = load()
    entries = []
    for index, text in enumerate(TEXTS):
        mean = model.embed(text)[0].astype(numpy.float64)
        length = float(numpy.linalg.norm(mean))
        unit = mean / length
        weights = numpy.sin(numpy.arange(len(unit)) + 1)
        entries.append(
            {
                "text": text,
                "tokens": len(model.tokenize(text)[0].ids),
                "length": round(length, 6),
                "values": [round(float(value), 6) for value in unit[: len(unit) if index == 0 else 8]],
                "weighted_sum": round(float((unit * weights).sum()), 6),
            }
        )
    json.dump(entries, sys.stdout, ensure_ascii=False, indent=1)
    print()


main()
