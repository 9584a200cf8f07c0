#!/usr/bin/env python3
"""Measures the text of PDF files: two parsers of Riacho, pypdfium2 in one process, kreuzberg's batch call.

    run.py --files DIR [--riacho target/release/riacho] [--rounds 5]

Reads the same files in turn, so that what a shared machine does meanwhile hits all of them, and prints one JSON object.
Makes a virtual environment in the cache with the versions of requirements.txt. Needs `make setup`, a release build, and
Python 3.11 or newer with `venv`.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKSPACE = HERE.parents[2]
REQUIREMENTS = HERE / "requirements.txt"


def main():
    options = arguments()
    python = environment(options.cache)
    files = sorted(path for path in options.files.rglob("*.pdf") if path.is_file())
    if not files:
        raise SystemExit(f"extraction: no .pdf file in {options.files}")
    with tempfile.TemporaryDirectory(prefix="riacho-extraction-") as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        for number, file in enumerate(files):
            (folder / f"{number:04}.pdf").write_bytes(file.read_bytes())
        turns = [turn(options.riacho, python, folder) for _ in range(options.rounds)]
    print(json.dumps(compared(turns), indent=2))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", metavar="DIR", type=Path, required=True, help="the PDF files; its folders too")
    parser.add_argument("--riacho", metavar="FILE", type=Path, default=WORKSPACE / "target/release/riacho",
                        help="the release build (default: target/release/riacho)")
    parser.add_argument("--rounds", metavar="N", type=int, default=5, help="how often all are measured (default: 5)")
    parser.add_argument("--cache", metavar="DIR", type=Path, default=WORKSPACE / "target/peers",
                        help="where the virtual environment is kept (default: target/peers)")
    return parser.parse_args()


def environment(cache, name="venv", also=()):
    """The Python of a virtual environment that holds the requirements; made anew when they change."""
    if sys.version_info < (3, 11):
        raise SystemExit("extraction: Python 3.11 or newer is needed")
    directory = cache.resolve() / "extraction" / name
    files = [REQUIREMENTS, *also]
    stamp = directory / "requirements.sha256"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files) + sys.version.encode()).hexdigest()
    python = directory / "bin/python"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print("extraction: installing the peers", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
                        "--only-binary", ":all:", *(part for file in files for part in ("--requirement", file))],
                       check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python


def turn(riacho, python, folder):
    """Each reader once, in a process of its own. Loading is measured for none: the second of two rounds counts."""
    quiet = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "LC_ALL": "C.UTF-8"}
    read = lambda name: answer([python, HERE / "read.py", name, folder, "2"], quiet)
    ours = [riacho, "--json", "bench", "extract", folder, "--rounds", "2"]
    return {
        "riacho, one parser": answer([*ours, "--processes", "1"], dict(os.environ)),
        "riacho, two parsers": answer([*ours, "--processes", "2"], dict(os.environ)),
        "pypdfium2": read("pypdfium2"),
        "kreuzberg": read("kreuzberg"),
    }


def answer(command, environment_):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment_,
                          cwd=WORKSPACE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(turns):
    """Medians over the turns; ratios are those of one turn, so that both sides had the same machine."""
    pages = turns[0]["riacho, one parser"]["pages"]
    rate = lambda turn, name: pages / turn[name]["seconds"][-1]
    figures = {"pages": pages, "files": turns[0]["pypdfium2"]["files"], "rounds": len(turns)}
    for name in turns[0]:
        one = turns[0][name]
        figures[name] = {
            "pages_per_s": round(statistics.median(rate(turn, name) for turn in turns), 1),
            "peak_mb": round(max(turn[name].get("parser_peak_bytes") or turn[name]["peak_bytes"] for turn in turns) / 1e6),
            "without_text": one["failed"] if isinstance(one["failed"], int) else sum(one["failed"].values()),
        }
    for name in ("pypdfium2", "kreuzberg"):
        ratios = [rate(turn, "riacho, two parsers") / rate(turn, name) for turn in turns]
        figures[f"two parsers, times {name}"] = [round(statistics.median(ratios), 2), [round(one, 2) for one in ratios]]
    return figures


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"extraction: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
