"""The peers: what is pinned of each, how it gets into the cache, and the command that runs its program."""

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from server import Failure

HERE = Path(__file__).resolve().parent
PYTHON = HERE / "python"


class Missing(Failure):
    """A tool that only this peer needs is not on the machine."""


@dataclass
class Peer:
    name: str
    pinned: Path
    """The file that names the version."""
    pattern: str
    settings: str
    install: Callable[[Path], list]
    """Fills a directory of the cache; returns the command, to which the arguments are added."""
    share: float = 1
    """Of the number of jobs, for the slow ones."""
    always_one: bool = False
    """It has no other mode than one job at a time."""

    def version(self):
        return re.search(self.pattern, self.pinned.read_text(), re.MULTILINE).group(1)


def run(command, what, **options):
    """Runs a command in silence; shows the end of its output only when it fails."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    if done.returncode != 0:
        raise Failure(f"{what} failed:\n" + "\n".join(done.stdout.strip().splitlines()[-10:]))


def tool(name):
    path = shutil.which(name)
    if path is None:
        raise Missing(f"{name} is missing")
    return path


def once(directory, sources, fill):
    """Calls `fill` unless the directory was filled from the same files before."""
    stamp = directory / "installed-from"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    fill()
    stamp.write_text(wanted)


def python_peer(name):
    requirements = PYTHON / f"{name}.txt"

    def install(cache):
        directory = cache / name
        interpreter = directory / "venv/bin/python"

        def fill():
            run([sys.executable, "-m", "venv", directory / "venv"], "python3 -m venv")
            run([interpreter, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps",
                 "-r", requirements], f"pip install of {name}")

        once(directory, [requirements], fill)
        # -B: nothing is written beside the sources.
        return [str(interpreter), "-B", str(PYTHON / f"{name}_peer.py")]

    return install


def bullmq(cache):
    node, npm = tool("node"), tool("npm")
    directory, sources = cache / "bullmq", [HERE / "bullmq" / name for name in ("package.json", "package-lock.json")]

    def fill():
        for source in sources:
            shutil.copy(source, directory)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "npm ci", cwd=directory)

    once(directory, sources, fill)
    # Node looks for modules above the program's own directory.
    shutil.copy(HERE / "bullmq/peer.js", directory)
    return [node, str(directory / "peer.js")]


def apalis(cache):
    target = cache / "apalis"
    run([tool("cargo"), "build", "--release", "--locked", "--quiet", "--manifest-path", HERE / "apalis/Cargo.toml",
         "--target-dir", target], "cargo build of apalis", cwd=HERE)
    return [str(target / "release/apalis-peer")]


PEERS = {peer.name: peer for peer in [
    Peer("bullmq", HERE / "bullmq/package.json", r'"bullmq": "(.+)"',
         "one process, concurrency 50, removeOnComplete, removeOnFail", bullmq),
    Peer("rq", PYTHON / "rq.txt", r"^rq==(.+)$",
         "SimpleWorker, result_ttl 0; always one at a time", python_peer("rq"), share=0.1, always_one=True),
    Peer("celery", PYTHON / "celery.txt", r"^celery==(.+)$",
         "solo pool, prefetch multiplier 100, ignore_result, acks_late off, no gossip, mingle or heartbeat",
         python_peer("celery"), share=0.25),
    Peer("taskiq", PYTHON / "taskiq.txt", r"^taskiq-redis==(.+)$",
         "RedisStreamBroker, 1 worker, 100 async tasks, uvloop", python_peer("taskiq")),
    Peer("apalis", HERE / "apalis/Cargo.toml", r'^apalis-redis = "=(.+)"',
         "batch 100, concurrency 100, poll interval 20 ms", apalis),
]}
