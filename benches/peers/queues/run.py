#!/usr/bin/env python3
"""Measures other queue systems on a private redis-server. See README.md beside this file.

Prints a table, or with --json one array with an object for each peer; what goes on meanwhile goes to standard error.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from install import PEERS, Missing
from measure import measure
from server import REPOSITORY, Failure, PrivateRedis, find_binary

COLUMNS = [("peer", "peer"), ("version", "version"), ("processed_per_s", "processed/s"),
           ("one_at_a_time_per_s", "one at a time/s"), ("idle_p50_ms", "idle p50 ms"), ("idle_p99_ms", "idle p99 ms"),
           ("commands_per_job", "commands/job"), ("bytes_per_queued_job", "bytes/queued job"),
           ("redelivery_s", "redelivery s")]


def arguments():
    parser = argparse.ArgumentParser(description="Measures other queue systems on a private redis-server.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; all by default")
    parser.add_argument("--jobs", type=int, default=20_000, help="for a run; RQ and Celery get fewer (20000)")
    parser.add_argument("--redelivery", action="store_true", help="measure that too; takes minutes for each peer")
    parser.add_argument("--redelivery-limit", type=float, default=660, metavar="SECONDS",
                        help="when to give up waiting for it (660)")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "target/peers", metavar="DIR",
                        help="where the peers are installed (target/peers)")
    parser.add_argument("--redis-server", metavar="FILE", help="another redis-server")
    given = parser.parse_args()
    if unknown := [name for name in given.peers if name not in PEERS]:
        parser.error(f"unknown peer {unknown[0]}; there are {', '.join(PEERS)}")
    if given.jobs < 100:
        parser.error("--jobs must be at least 100")
    return given


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


def show(results):
    rows = [[title for _, title in COLUMNS]]
    rows += [["-" if result[key] is None else str(result[key]) for key, _ in COLUMNS] for result in results]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    for result in results:
        print(f"{result['peer']}: {result['settings']}")


def main():
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cache, results, failed = given.cache.resolve(), [], False
    limit = given.redelivery_limit if given.redelivery else None
    with PrivateRedis(find_binary(given.redis_server)) as server:
        say(f"redis-server {server.version} on port {server.port}, {given.jobs} jobs of 200 bytes, "
            f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for peer in [PEERS[name] for name in given.peers or PEERS]:
            try:
                say(f"{peer.name} {peer.version()}: installing")
                command = peer.install(cache)
                say(f"{peer.name} {peer.version()}: measuring")
                results.append(measure(peer, command, server, given.jobs, limit))
            except Missing as error:
                say(f"{peer.name}: skipped, {error}")
                failed = failed or peer.name in given.peers
            except Failure as error:
                say(f"{peer.name}: failed, {error}")
                failed = True
    if given.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as error:
        say(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
