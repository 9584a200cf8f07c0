"""Stands in for a gateway: sends a second event only after somebody has asked for /go, which shows that the first has arrived."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GO = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if not self.path.endswith("/events"):
            return self.answer(b"ok\n")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        GO.wait(120)
        self.wfile.write(b"data: second\n\n")
        self.close_connection = True

    def do_POST(self):
        GO.set()
        self.answer(b"gone\n")

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
