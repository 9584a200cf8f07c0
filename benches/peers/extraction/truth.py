#!/usr/bin/env python3
"""Measures how near extracted texts come to what documents say: Riacho, pypdfium2 (PDF only) and kreuzberg.

    truth.py [--documents 6] [--riacho target/release/riacho] [--keep DIR]

Makes the documents first, in every layout and format of known/, in turn Portuguese and English, so that their text is known. Prints a
table, or with --json one object. known/score.py says what is compared. Makes a virtual environment in the cache with the
versions of requirements.txt and truth-requirements.txt. Needs `make setup`, a release build, and Python 3.11 or newer with `venv`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from run import HERE, WORKSPACE, answer, environment


def main():
    options = arguments()
    python = environment(options.cache, "truth", [HERE / "truth-requirements.txt"])
    if options.keep:
        options.keep.mkdir(parents=True)
        measured = measure(options, python, options.keep.resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="riacho-truth-") as scratch:
            measured = measure(options, python, Path(scratch))
    print(json.dumps(measured, indent=1, ensure_ascii=False) if options.json else table(measured))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", metavar="N", type=int, default=6, help="of each layout and format (default: 6)")
    parser.add_argument("--riacho", metavar="FILE", type=Path, default=WORKSPACE / "target/release/riacho",
                        help="the release build (default: target/release/riacho)")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="a new folder for documents, truths and texts")
    parser.add_argument("--json", action="store_true", help="print one object, with the worst file of each kind")
    parser.add_argument("--cache", metavar="DIR", type=Path, default=WORKSPACE / "target/peers",
                        help="where the virtual environment is kept (default: target/peers)")
    return parser.parse_args()


def measure(options, python, folder):
    names = ("files", "truths", "riacho", "pypdfium2", "kreuzberg")
    files, truths, ours, pdfium, kreuzberg = (folder / name for name in names)
    for one in (files, truths, ours, pdfium, kreuzberg):
        one.mkdir()
    quiet = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    subprocess.run([python, HERE / "known/make.py", files, truths, str(options.documents)], env=quiet, check=True)
    answer([options.riacho.resolve(), "--json", "bench", "extract", files, "--texts", ours, "--rounds", "1"], dict(os.environ))
    for name, texts in (("pypdfium2", pdfium), ("kreuzberg", kreuzberg)):
        answer([python, HERE / "read.py", name, files, "1", texts], quiet)
    readers = [f"riacho={ours}", f"pypdfium2={pdfium}", f"kreuzberg={kreuzberg}"]
    scored = subprocess.run([python, HERE / "known/score.py", truths, *readers], env=quiet, check=True,
                            stdout=subprocess.PIPE, text=True)
    return json.loads(scored.stdout)


def table(measured):
    """Characters, words in order and words in any order of each reader; with Riacho's worst file of the kind."""
    lines = ["| | files | " + " | ".join(measured) + " | worst of Riacho |", "|---|---|" + "---|" * (len(measured) + 1)]
    for kind, ours in measured["riacho"].items():
        cells = [kind, str(ours["files"])]
        for reader in measured.values():
            one = reader.get(kind)
            cells.append(f"{one['characters']:.4f}, {one['words']:.4f}, {one['bag']:.4f}" if one else "")
        lines.append("| " + " | ".join([*cells, f"{ours['worst'][1]:.4f}"]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except FileExistsError as error:
        sys.exit(f"truth: {error.filename} is there already")
    except subprocess.CalledProcessError as error:
        sys.exit(f"truth: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
