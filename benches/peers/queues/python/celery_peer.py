"""Celery. Usage: celery_peer.py enqueue KIND COUNT | publish COUNT GAP_MS | work fast|one|default"""

import sys
import time

from celery import Celery

import handler

app = Celery("celery_peer", broker=handler.URL)
app.conf.task_ignore_result = True

QUIET = ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
WORKERS = {
    "fast": ["--pool", "solo", "--prefetch-multiplier", "100", *QUIET],
    "one": ["--pool", "solo", "--prefetch-multiplier", "1", *QUIET],
    "default": [],
}


@app.task(name="job")
def job(text):
    time.sleep(handler.run(text))


def main(command, *arguments):
    if command == "enqueue":
        for _ in range(int(arguments[1])):
            job.delay(handler.payload(arguments[0]))
    elif command == "publish":
        handler.publish(job.delay, *map(int, arguments))
    else:
        app.worker_main(["worker", *WORKERS[arguments[0]]])


if __name__ == "__main__":
    main(*sys.argv[1:])
