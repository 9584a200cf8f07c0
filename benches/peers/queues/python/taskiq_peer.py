"""taskiq-redis. Usage: taskiq_peer.py enqueue KIND COUNT | publish COUNT GAP_MS | work fast|one|default"""

import asyncio
import os
import sys
import time

from taskiq_redis import RedisStreamBroker

import handler

# `taskiq worker` imports this module anew, so the choice of the settings goes through the environment.
broker = RedisStreamBroker(handler.URL, **({"xread_count": 1} if os.environ.get("PEER_MODE") == "one" else {}))

QUIET = ["--workers", "1", "--log-level", "WARNING"]
WORKERS = {
    "fast": [*QUIET, "--max-async-tasks", "100"],
    "one": [*QUIET, "--max-async-tasks", "1"],
    "default": [],
}


@broker.task(task_name="job")
async def job(text: str) -> None:
    held = handler.run(text)
    if held:
        await asyncio.sleep(held)


async def send(command, arguments):
    # Creates the group of consumers too; what was added before it would never be read.
    await broker.startup()
    if command == "enqueue":
        for _ in range(int(arguments[1])):
            await job.kiq(handler.payload(arguments[0]))
    else:
        count, gap_ms = map(int, arguments)
        start = time.monotonic()
        for n in range(count):
            await asyncio.sleep(max(0, start + n * gap_ms / 1000 - time.monotonic()))
            await job.kiq(handler.payload("idle"))
    await broker.shutdown()


def main(command, *arguments):
    if command != "work":
        asyncio.run(send(command, arguments))
        return
    os.environ["PEER_MODE"] = arguments[0]
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    os.execv(sys.executable, [sys.executable, "-m", "taskiq", "worker", "taskiq_peer:broker", *WORKERS[arguments[0]]])


if __name__ == "__main__":
    main(*sys.argv[1:])
