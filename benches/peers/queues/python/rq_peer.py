"""RQ. Usage: rq_peer.py enqueue KIND COUNT | publish COUNT GAP_MS | work fast|default"""

import sys
import time

from redis import Redis
from rq import Queue, SimpleWorker, Worker

import handler

CHUNK = 500


def job(text):
    time.sleep(handler.run(text))


def enqueue(queue, kind, count):
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        queue.enqueue_many([
            Queue.prepare_data("rq_peer.job", args=(handler.payload(kind),), result_ttl=0) for _ in range(size)])


def main(command, *arguments):
    connection = Redis(port=handler.PORT)
    queue = Queue("peer", connection=connection)
    if command == "enqueue":
        enqueue(queue, arguments[0], int(arguments[1]))
    elif command == "publish":
        handler.publish(lambda text: queue.enqueue("rq_peer.job", text, result_ttl=0), *map(int, arguments))
    elif arguments[0] == "default":
        Worker([queue], connection=connection).work()
    else:
        SimpleWorker([queue], connection=connection).work(logging_level="WARNING")


if __name__ == "__main__":
    main(*sys.argv[1:])
