#!/usr/bin/env python3
"""Measures CocoIndex from text files to committed chunks and vectors, to be read beside `riacho-bench bulk`.

    run.py --files DIR --generate 2000     writes a corpus like that of riacho-bench, and ends
    run.py --files DIR                     measures, and prints one JSON object

Makes a virtual environment in the cache with the versions of requirements.txt, starts a private PostgreSQL in a
temporary directory (TMPDIR says where), and runs flow.py against it. Both are stopped and the directory is removed
at the end, whatever the end is. Needs `make setup`, and Python 3.11 or newer, which CocoIndex needs.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import corpus
import server

HERE = Path(__file__).resolve().parent
WORKSPACE = HERE.parents[2]
REQUIREMENTS = HERE / "requirements.txt"
SUFFIXES = {".md", ".txt"}
FAREWELL = [(signal.SIGTERM, 10), (signal.SIGKILL, 10)]


def main():
    options = arguments()
    if options.generate is not None:
        corpus.generate(WORKSPACE, options.files, options.generate, options.seed)
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    files = chosen(options.files, options.limit)
    python = environment(options.cache)
    with tempfile.TemporaryDirectory(prefix="riacho-cocoindex-") as scratch:
        scratch = Path(scratch)
        copy(files, options.files, scratch / "files")
        with server.postgres(runtime() / "postgres/bin", scratch / "postgres", scratch / "postgres.log"):
            print(json.dumps(measure(python, scratch, options.index)))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", metavar="DIR", type=Path, required=True, help="the text files (.md, .txt)")
    parser.add_argument("--limit", metavar="N", type=int, help="measure the first N files only, by name")
    parser.add_argument("--index", action="store_true", help="keep an HNSW index on the vectors (default: none)")
    parser.add_argument("--cache", metavar="DIR", type=Path, default=WORKSPACE / "target/peers",
                        help="where the virtual environment is kept (default: target/peers)")
    parser.add_argument("--generate", metavar="N", type=int, help="write N files of 5 to 20 KB into --files, and end")
    parser.add_argument("--seed", type=int, default=0, help="where the seeds of --generate start (default: 0)")
    return parser.parse_args()


def runtime():
    return Path(os.environ.get("RIACHO_RUNTIME_DIR") or WORKSPACE / ".riacho/runtime").resolve()


def chosen(directory, limit):
    files = sorted(path for path in directory.rglob("*") if path.suffix in SUFFIXES and path.is_file())[:limit]
    if not files:
        raise SystemExit(f"documents: no .md or .txt file in {directory}; --generate N writes some")
    return files


def copy(files, source, target):
    """CocoIndex walks a directory, so the chosen files get one of their own, on the disk of the database."""
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def environment(cache):
    """The Python of a virtual environment that holds the requirements; made anew when they change."""
    if sys.version_info < (3, 11):
        raise SystemExit("documents: CocoIndex needs Python 3.11 or newer")
    directory = cache.resolve() / "cocoindex/venv"
    stamp = directory / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    python = directory / "bin/python"
    if not (stamp.exists() and stamp.read_text() == wanted):
        print("documents: installing the peer", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
                        "--only-binary", ":all:", "--requirement", REQUIREMENTS], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return python


def measure(python, scratch, index):
    """Runs the flow in a process of its own, so that its peak memory is nobody else's."""
    command = [python, HERE / "flow.py", "--files", scratch / "files", "--state", scratch / "state",
               "--host", scratch / "postgres", "--user", server.OWNER, *(["--index"] if index else [])]
    # CocoIndex reports its use to its makers, and libraries of models look at a hub, unless told not to.
    quiet = {"COCOINDEX_DISABLE_USAGE_TRACKING": "1", "HF_HUB_OFFLINE": "1"}
    flow = subprocess.Popen(command, cwd=scratch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                            env={"PATH": "/usr/bin:/bin", "HOME": str(scratch), "LC_ALL": "C.UTF-8", **quiet},
                            preexec_fn=server.end_with_parent)
    with server.stopped(flow, FAREWELL):
        answer, _ = flow.communicate()
    if flow.returncode != 0:
        raise SystemExit(f"documents: the flow ended with {flow.returncode}")
    return json.loads(answer.splitlines()[-1])


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"documents: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
