"""A private PostgreSQL with pgvector from the runtime of the repository, with its default settings.

It lives as long as a `with` block, listens on a Unix socket in its own data directory only, and is stopped by its
process id. Nothing in here knows what is measured.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import time

START_LIMIT = 60
# A fast shutdown, an immediate one, and what nothing survives; each with the seconds given to it.
FAREWELL = [(signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)]
OWNER = "peer"
SET_PARENT_DEATH_SIGNAL = 1


@contextlib.contextmanager
def postgres(programs, data, log):
    """Makes a cluster in `data`, runs it, and stops it however the block ends."""
    if not (programs / "postgres").exists():
        raise SystemExit(f"documents: there is no PostgreSQL in {programs}; `make setup` brings it")
    account = unprivileged()
    data.mkdir(mode=0o700)
    if account:
        os.chown(data, account.pw_uid, account.pw_gid)
    with open(log, "ab") as sink:
        initdb = start(programs / "initdb", data, account, sink, "--no-instructions", "--encoding=UTF8", "--locale=C",
                       "--auth=trust", f"--username={OWNER}")
        with stopped(initdb):
            if initdb.wait() != 0:
                raise SystemExit(f"documents: initdb failed:\n{last_words(log)}")
        # The socket is in a directory of mode 0700, so whoever reaches it may come in.
        server = start(programs / "postgres", data, account, sink, "-c", "listen_addresses=",
                       "-c", "unix_socket_directories=.", "-c", "unix_socket_permissions=0700")
        with stopped(server):
            wait_ready(server, data, log)
            yield


def unprivileged():
    """The account to step down to: PostgreSQL refuses root. None when this process is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SystemExit("documents: there is neither an account postgres nor nobody to run PostgreSQL under")


def start(program, data, account, sink, *arguments):
    """Starts a program on the cluster, with no environment that could lead it elsewhere.

    The account may not be able to walk to the directory, only to stand in it. A session of its own keeps the
    terminal's Ctrl-C for this script, which then stops the server in order.
    """
    identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    return subprocess.Popen([program, "-D", "/proc/self/cwd", *arguments], cwd=data, stdin=subprocess.DEVNULL,
                            stdout=sink, stderr=sink, start_new_session=True, preexec_fn=end_with_parent,
                            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}, **identity)


def end_with_parent():
    """Run in a child before its program: a parent that is killed takes it along."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def wait_ready(server, data, log):
    """PostgreSQL writes its state into the eighth line of its lock file."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"documents: PostgreSQL ended at its start:\n{last_words(log)}")
        with contextlib.suppress(OSError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        time.sleep(0.02)
    raise SystemExit(f"documents: PostgreSQL was not ready within {START_LIMIT} s:\n{last_words(log)}")


@contextlib.contextmanager
def stopped(process, farewell=FAREWELL):
    """Ends a child of this process with the block, first kindly."""
    try:
        yield process
    finally:
        for number, seconds in farewell:
            if process.poll() is not None:
                break
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def last_words(log):
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-8:])
