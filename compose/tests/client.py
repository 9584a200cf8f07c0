"""A client of the deployment under test, and a steady load that writes down every answer."""

import http.client
import json
import ssl
import threading
import time

from engine import Failed


class Client:
    """One connection, made again when it broke; plain or over TLS."""

    def __init__(self, port, key=None, tls=False, host="riacho.test"):
        self.port, self.key, self.tls, self.host = port, key, tls, host
        self.connection = None

    def open(self):
        if not self.tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        # The certificate is one that the front made itself.
        context = ssl._create_unverified_context()  # noqa: SLF001
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=120, context=context)

    def ask(self, method, path, body=None, headers=None):
        """The status, the headers and the body of an answer. Nothing is sent twice."""
        headers = {"Host": self.host, **(headers or {})}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if isinstance(body, (dict, list)):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        self.connection = self.connection or self.open()
        try:
            self.connection.request(method, path, body=body, headers=headers)
            answer = self.connection.getresponse()
            content = answer.read()
        except Exception:
            self.connection.close()
            self.connection = None
            raise
        if answer.getheader("Connection", "").lower() == "close":
            self.connection.close()
            self.connection = None
        return answer.status, dict(answer.getheaders()), content

    def json(self, method, path, body=None, expect=(200, 202), headers=None):
        status, _, content = self.ask(method, path, body, headers)
        if status not in expect:
            raise Failed(f"{method} {path} answered {status}: {content[:500]}")
        return json.loads(content)

    def upload(self, name, text):
        return self.json("POST", f"/api/v1/documents?filename={name}", text.encode(), headers={"Content-Type": "text/markdown"})["id"]

    def search(self, query, top_k=5):
        return self.json("POST", "/api/v1/search", {"query": query, "top_k": top_k})["hits"]

    def state(self, document):
        return self.json("GET", f"/api/v1/documents/{document}/status")["state"]


def eventually(condition, what, seconds=300):
    """Waits until a condition holds; an answer that cannot be had yet is one more reason to wait."""
    deadline, seen = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            seen = condition()
            if seen is True or (seen and not isinstance(seen, str)):
                return seen
        except (OSError, http.client.HTTPException, Failed) as error:
            seen = repr(error)
        time.sleep(0.1)
    raise Failed(f"{what}: {seen!r} after {seconds} s")


def all_ready(client, documents):
    waiting = list(documents)

    def look():
        while waiting:
            state = client.state(waiting[-1])
            if state == "failed":
                raise AssertionError(f"document {waiting[-1]} failed")
            if state != "ready":
                return f"{len(waiting)} documents are not ready; {waiting[-1]} is {state}"
            waiting.pop()
        return True

    eventually(look, "all documents become ready", 600)


class Load:
    """So many requests a second, a fifth of them uploads, the rest searches; each client waits for its answer before it asks again."""

    def __init__(self, per_second, clients, make):
        self.per_second, self.make = per_second, make
        self.stop_asked, self.lock = threading.Event(), threading.Lock()
        self.accepted, self.failures, self.slowest, self.count, self.begun = [], [], 0.0, 0, time.monotonic()
        self.turn = 0
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(clients)]

    def __enter__(self):
        self.begun = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop_asked.set()
        for thread in self.threads:
            thread.join(timeout=180)
        self.seconds = time.monotonic() - self.begun

    def work(self):
        client = self.make()
        while not self.stop_asked.is_set():
            with self.lock:
                turn, self.turn = self.turn, self.turn + 1
            pause = self.begun + turn / self.per_second - time.monotonic()
            if pause > 0 and self.stop_asked.wait(pause):
                return
            started = time.monotonic()
            try:
                if turn % 5 == 0:
                    document = client.upload(f"load-{turn}.md", f"# Barge {turn}\n\nThe barge number {turn} passed the lock.\n")
                    with self.lock:
                        self.accepted.append(document)
                else:
                    client.search(f"which barge passed the lock, {turn % 50}")
            except Exception as error:  # whatever it is, a request was lost
                with self.lock:
                    self.failures.append(f"request {turn} at {time.monotonic() - self.begun:.1f} s: {error!r}")
            with self.lock:
                self.count += 1
                self.slowest = max(self.slowest, time.monotonic() - started)

    def check(self, at_least):
        if self.failures:
            raise Failed(f"{len(self.failures)} of {self.count} requests were lost:\n  " + "\n  ".join(self.failures[:10]))
        if self.count < at_least:
            raise Failed(f"the load was {self.count} requests, {at_least} were asked for")
