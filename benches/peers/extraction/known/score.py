"""How near each reader's texts come to the truth. Prints one JSON object.

    score.py TRUTHS NAME=DIR [NAME=DIR ..]

Both sides are brought to one form first: NFC; marks of Markdown removed (those of headings, emphasis, code, tables and links, and
backslashes before punctuation), bullets at the beginning of a line too; each run of white space one space. Ligatures, soft hyphens
and marks of broken words stay, since a search stumbles over them.

    characters  1 - Levenshtein distance / length of the longer text: the measure that the aim is about
    words       the same over words
    bag         2 * common words / words of both, whatever their order
"""

import json
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from statistics import mean

from rapidfuzz.distance import Levenshtein

AIM = 0.985
MARKS = [
    (re.compile(r"\[([^\]\n]*)\]\([^)\n]*\)"), r"\1"),
    (re.compile(r"^ *#{1,6} ", re.M), ""),
    (re.compile(r"^ *[-*•◦‣▪●] +", re.M), ""),
    (re.compile(r"^[ |:-]*-{3}[ |:-]*$", re.M), ""),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
    (re.compile(r"[*`]"), ""),
    (re.compile(r"\|"), " "),
    (re.compile(r"\s+"), " "),
]


def plain(text):
    text = unicodedata.normalize("NFC", text)
    for pattern, by in MARKS:
        text = pattern.sub(by, text)
    return text.strip()


def bag(one, other):
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / max(1, len(one) + len(other))


def score(truth, text):
    truth, text = plain(truth), plain(text)
    return {
        "characters": Levenshtein.normalized_similarity(truth, text),
        "words": Levenshtein.normalized_similarity(truth.split(), text.split()),
        "bag": bag(truth.split(), text.split()),
    }


def summary(scores):
    """Means over the files, and the worst file by characters."""
    worst = min(scores, key=lambda name: scores[name]["characters"])
    kinds = ("characters", "words", "bag")
    return {
        "files": len(scores),
        **{kind: round(mean(one[kind] for one in scores.values()), 4) for kind in kinds},
        "worst": [worst, round(scores[worst]["characters"], 4)],
        "below": sum(one["characters"] < AIM for one in scores.values()),
    }


def main():
    truths = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(sys.argv[1]).iterdir())}
    answer = {}
    for argument in sys.argv[2:]:
        name, folder = argument.split("=", 1)
        texts = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
        # A file that a reader of its format gave no text for counts as no text.
        read = lambda file: name != "pypdfium2" or file.endswith(".pdf.txt")
        scores = {file: score(truth, texts.get(file, "")) for file, truth in truths.items() if read(file)}
        kinds = {}
        for file, one in scores.items():
            kinds.setdefault(file.split(".")[0], {})[file] = one
        pdf = {file: one for file, one in scores.items() if file.endswith(".pdf.txt")}
        # pypdfium2 reads PDF files only, so it has no figure for all.
        every = {} if name == "pypdfium2" else {"all": summary(scores)}
        answer[name] = {**every, "pdf": summary(pdf), **{kind: summary(some) for kind, some in kinds.items()}}
    print(json.dumps(answer, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
