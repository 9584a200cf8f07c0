"""A private redis-server in a temporary directory, and the few commands that the measurements send to it."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
LOOPBACK = "127.0.0.1"


class Failure(Exception):
    """One line that a person can act on."""


def find_binary(given):
    """The redis-server that `make setup` installed, unless another one is named."""
    runtime = Path(os.environ.get("RIACHO_RUNTIME_DIR") or REPOSITORY / ".riacho/runtime")
    binary = given or shutil.which(str(runtime / "bin/redis-server")) or shutil.which("redis-server")
    if binary is None:
        raise Failure("redis-server is missing; run `make setup`, or name one with --redis-server")
    return binary


def free_port():
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


class PrivateRedis:
    """Use it in a `with`: the server is stopped and its directory removed at the end, also after a failure."""

    def __init__(self, binary):
        self.binary = binary

    def __enter__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="riacho-peers-"))
        self.port = free_port()
        self.log = self.directory / "redis.log"
        self.process = subprocess.Popen(
            [self.binary, "--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.directory),
             "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--logfile", str(self.log)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            self.connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self):
        deadline = time.monotonic() + 10
        while True:
            try:
                self.socket = socket.create_connection((LOOPBACK, self.port), timeout=60)
                self.replies = self.socket.makefile("rb")
                self.version = self.info("server")["redis_version"]
                return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = self.log.read_text()[-500:] if self.log.exists() else ""
                    raise Failure(f"redis-server does not answer: {error}\n{log}") from error
                time.sleep(0.05)

    def call(self, *words):
        """Sends one command whose words have no spaces."""
        self.socket.sendall(" ".join(words).encode() + b"\r\n")
        line = self.replies.readline()
        kind, rest = line[:1], line[1:].strip().decode()
        if kind == b"$":
            return self.replies.read(int(rest) + 2)[:-2].decode()
        if kind in (b"+", b":"):
            return rest
        raise Failure(f"redis-server answered {words[0]} with {line!r}")

    def info(self, section):
        lines = self.call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def calls(self):
        """How many commands the server has executed, those inside scripts included."""
        stats = self.info("commandstats").values()
        return sum(int(stat.split(",")[0].removeprefix("calls=")) for stat in stats)

    def used_memory(self):
        return int(self.info("memory")["used_memory"])

    def flush(self):
        """Removes every key, and what the append-only file holds of them."""
        self.call("FLUSHALL")
        self.call("BGREWRITEAOF")
        while True:
            state = self.info("persistence")
            if state["aof_rewrite_in_progress"] == state["aof_rewrite_scheduled"] == "0":
                return
            time.sleep(0.05)
