"""The handler that the Python peers share: what a job does when it runs.

A payload is `KIND NANOSECONDS` padded to 200 bytes. The kinds, which the other peers' programs know too:

    noop    counted; after PEER_EXPECT of them the times of the first and the last are written to PEER_REPORT
    idle    the time since it was published is noted; after PEER_EXPECT of them all are written to PEER_REPORT
    mark    a line with process id and time goes to PEER_MARKS
    hold    as mark, and then the job does not end
"""

import json
import os
import time

PORT = int(os.environ["PEER_PORT"])
URL = f"redis://127.0.0.1:{PORT}/0"
HOLD_S = 3600

_expect = int(os.environ.get("PEER_EXPECT", "0"))
_count = 0
_first = 0
_latencies = []


def now():
    """Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share."""
    return time.monotonic_ns()


def payload(kind):
    return f"{kind} {now()} ".ljust(200, "x")


def run(text):
    """Does a job; returns for how many seconds it has to be held."""
    global _count, _first
    started = now()
    kind, sent, _ = text.split(" ", 2)
    if kind in ("mark", "hold"):
        with open(os.environ["PEER_MARKS"], "a") as marks:
            marks.write(f"{os.getpid()} {started}\n")
        return HOLD_S if kind == "hold" else 0
    _count += 1
    _first = _first or started
    if kind == "idle":
        _latencies.append(started - int(sent))
    if _count == _expect:
        _report({"latencies_ns": _latencies} if kind == "idle" else {"first_ns": _first, "last_ns": now()})
    return 0


def _report(content):
    path = os.environ["PEER_REPORT"]
    with open(path + ".new", "w") as report:
        json.dump(content, report)
    os.replace(path + ".new", path)


def publish(send, count, gap_ms):
    """Sends `count` jobs of kind idle at a steady pace."""
    start = time.monotonic()
    for n in range(count):
        time.sleep(max(0, start + n * gap_ms / 1000 - time.monotonic()))
        send(payload("idle"))
