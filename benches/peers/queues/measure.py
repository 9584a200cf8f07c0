"""What is measured of a peer, the same for all: starts its program as publisher and as worker, and reads its reports."""

import json
import os
import signal
import subprocess
import time

from server import Failure

IDLE_JOBS = 200
IDLE_GAP_MS = 20
STEP_LIMIT_S = 600
"""A run that takes longer than this has failed."""
SETTLE_S = 1
"""Acknowledgements may follow a moment after the last handler ended."""


class Measurement:
    def __init__(self, server, command, jobs):
        self.server = server
        self.command = command
        self.jobs = jobs
        self.workers = []
        self.report = server.directory / "report"
        self.marks = server.directory / "marks"
        self.log = server.directory / "peer.log"

    # --- the peer's program -------------------------------------------------------------------------------

    def start(self, *arguments, expect=0):
        environment = dict(os.environ, PEER_PORT=str(self.server.port), PEER_EXPECT=str(expect),
                           PEER_REPORT=str(self.report), PEER_MARKS=str(self.marks))
        with open(self.log, "ab") as log:
            process = subprocess.Popen([*self.command, *map(str, arguments)], env=environment, start_new_session=True,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.workers.append(process)
        return process

    def finish(self, *arguments):
        """Runs the program in its role as publisher to its end."""
        process = self.start(*arguments)
        try:
            code = process.wait(STEP_LIMIT_S)
        except subprocess.TimeoutExpired:
            code = "a time-out"
        if code != 0:
            raise Failure(f"`{' '.join(map(str, arguments))}` ended with {code}\n{self.tail()}")
        self.workers.remove(process)

    def kill(self, process):
        """Kills a worker with all its processes, those too that left its process group to run a job."""
        pids = {pid for pid, _ in self.marked()} & descendants(process.pid)
        for send, pid in [(os.killpg, process.pid), *((os.kill, pid) for pid in pids)]:
            try:
                send(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()
        self.workers.remove(process)

    def stop(self):
        for process in list(self.workers):
            self.kill(process)

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def marked(self):
        """The process and the time of each job that left a mark."""
        lines = self.marks.read_text().splitlines() if self.marks.exists() else []
        return [(int(pid), int(at)) for pid, at in (line.split() for line in lines)]

    def wait(self, condition, worker):
        deadline = time.monotonic() + STEP_LIMIT_S
        while not condition():
            if worker.poll() is not None:
                raise Failure(f"the worker ended with {worker.returncode}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failure(f"the worker was not done after {STEP_LIMIT_S} s\n{self.tail()}")
            time.sleep(0.02)

    def fresh(self):
        self.stop()
        self.server.flush()
        self.report.unlink(missing_ok=True)
        self.marks.unlink(missing_ok=True)

    # --- what is measured ---------------------------------------------------------------------------------

    def drain(self, mode):
        """Jobs per second of one worker that finds them all there; commands and bytes of each job."""
        self.fresh()
        # What the server keeps besides the jobs, its cache of scripts above all, is there before memory is read.
        self.finish("enqueue", "noop", 1)
        self.server.flush()
        calls, memory = self.server.calls(), self.server.used_memory()
        self.finish("enqueue", "noop", self.jobs)
        bytes_each = (self.server.used_memory() - memory) / self.jobs
        worker = self.start("work", mode, expect=self.jobs)
        self.wait(self.report.exists, worker)
        times = json.loads(self.report.read_text())
        time.sleep(SETTLE_S)
        commands = (self.server.calls() - calls) / self.jobs
        return self.jobs / (times["last_ns"] - times["first_ns"]) * 1e9, commands, bytes_each

    def idle(self):
        """From the call that publishes to the first line of the handler, in milliseconds: p50 and p99."""
        self.fresh()
        self.finish("enqueue", "mark", 1)
        worker = self.start("work", "fast", expect=IDLE_JOBS)
        self.wait(self.marked, worker)
        time.sleep(SETTLE_S)
        self.finish("publish", IDLE_JOBS, IDLE_GAP_MS)
        self.wait(self.report.exists, worker)
        latencies = sorted(json.loads(self.report.read_text())["latencies_ns"])
        return [latencies[-(-len(latencies) * percent // 100) - 1] / 1e6 for percent in (50, 99)]

    def redelivery(self, limit_s):
        """Seconds from kill -9 of a worker in the middle of a job to the job's start on another worker."""
        self.fresh()
        self.finish("enqueue", "hold", 1)
        first = self.start("work", "default")
        self.wait(self.marked, first)
        self.start("work", "default")
        time.sleep(5)
        killed, seen = time.monotonic_ns(), len(self.marked())
        self.kill(first)
        while time.monotonic_ns() < killed + limit_s * 1e9:
            if len(self.marked()) > seen:
                return (self.marked()[seen][1] - killed) / 1e9
            time.sleep(0.1)
        return None


def descendants(pid):
    """The process and its children, theirs too."""
    found, parents = {pid}, {}
    for entry in os.listdir("/proc"):
        try:
            stat = open(f"/proc/{entry}/stat").read() if entry.isdigit() else None
        except OSError:
            continue
        if stat:
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def measure(peer, command, server, jobs, redelivery_limit_s=None):
    measurement = Measurement(server, command, max(1, round(jobs * peer.share)))
    try:
        processed, commands, bytes_each = measurement.drain("fast")
        one_at_a_time = processed if peer.always_one else measurement.drain("one")[0]
        p50, p99 = measurement.idle()
        redelivery = measurement.redelivery(redelivery_limit_s) if redelivery_limit_s else None
    finally:
        measurement.stop()
    rounded = lambda number, digits: None if number is None else round(number, digits)
    return {
        "peer": peer.name,
        "version": peer.version(),
        "settings": peer.settings,
        "processed_per_s": round(processed),
        "one_at_a_time_per_s": round(one_at_a_time),
        "idle_p50_ms": rounded(p50, 2),
        "idle_p99_ms": rounded(p99, 2),
        "commands_per_job": rounded(commands, 1),
        "bytes_per_queued_job": round(bytes_each),
        "redelivery_s": rounded(redelivery, 1),
    }
