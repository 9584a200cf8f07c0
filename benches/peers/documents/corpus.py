"""Text files in the style of benches/src/corpus.rs: its vocabulary, sizes, headings, sentences and skew.

The files are the same for a seed, but not byte for byte those of `riacho-bench`, whose generator of random
numbers is another one.
"""

import math
import random
import re

VOCABULARY = "benches/src/corpus.rs"


def generate(workspace, directory, count, first_seed):
    """Writes `count` files of 5 to 20 KB into `directory`, named as `riacho-bench bulk` names its uploads."""
    words = vocabulary(workspace)
    directory.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (directory / f"report-{n}.md").write_text(document(words, first_seed + n), encoding="utf-8")


def vocabulary(workspace):
    """The words of the Rust corpus, read from its source so that there is one list only."""
    source = (workspace / VOCABULARY).read_text(encoding="utf-8")
    found = re.search(r'const WORDS: &str = "([^"]+)"', source)
    if found is None:
        raise SystemExit(f"documents: {VOCABULARY} no longer holds `const WORDS`")
    return found.group(1).replace("\\\n", " ").split()


def document(words, seed):
    """A heading, then paragraphs of two to five sentences, every fifth of them below a heading of its own."""
    chance = random.Random(seed)
    size = chance.randrange(5_000, 20_000)
    parts = [f"# Station report {seed}\n\n"]
    length = len(parts[0])
    while length < size:
        start = len(parts)
        if chance.random() < 1 / 5:
            parts.append(f"## {pick(words, chance).capitalize()} {chance.randrange(1, 1000)}\n\n")
        parts.extend(sentence(words, chance) for _ in range(chance.randrange(2, 6)))
        parts.append("\n\n")
        length += sum(map(len, parts[start:]))
    return "".join(parts)


def sentence(words, chance):
    """Seven to twenty words, one in 25 of them a number."""
    parts = [pick(words, chance).capitalize()]
    for _ in range(chance.randrange(6, 20)):
        is_number = chance.random() < 1 / 25
        parts.append(str(chance.randrange(1, 10_000)) if is_number else pick(words, chance))
    return " ".join(parts) + ". "


def pick(words, chance):
    """A word; its frequency falls off quadratically with its place in the list."""
    return words[math.floor(chance.random() ** 2 * len(words))]
