#!/usr/bin/env python3
"""Publishes a file to Riacho by writing straight onto Redis, and waits for the answer.

    pip install redis protobuf grpcio-tools        # or protoc on the PATH instead of grpcio-tools
    python3 publish.py --redis redis://localhost:6379 --tenant default handbook.pdf

An event that is sent twice is one document, so the program sends it again until it sees the
answer. It prints one line of JSON and ends with 0 when the document was accepted, 1 when it was
rejected, and 2 when no answer came in time.
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid

import redis

PROTO = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../proto"))
FILES = [f"riacho/events/v1/{name}.proto" for name in ("envelope", "intake", "operations", "stages")]


def generate(proto, out):
    """Makes the Python classes of the .proto files, with protoc or with grpcio-tools."""
    protoc = os.environ.get("PROTOC") or shutil.which("protoc")
    command = [protoc] if protoc else [sys.executable, "-m", "grpc_tools.protoc"]
    subprocess.run([*command, f"--proto_path={proto}", f"--python_out={out}", *FILES], check=True)


def load_events(proto):
    """Imports the events' classes. A project of your own generates them once instead."""
    with tempfile.TemporaryDirectory() as out:
        generate(proto, out)
        sys.path.insert(0, out)
        try:
            return importlib.import_module("riacho.events.v1.envelope_pb2")
        finally:
            sys.path.remove(out)


def upload_event(events, arguments, content):
    """The envelope of a document that carries its bytes."""
    envelope = events.Envelope(
        envelope_version=1,
        id=arguments.event_id or str(uuid.uuid4()),
        source=arguments.source,
        type="riacho.events.v1.DocumentUploaded",
        tenant=arguments.tenant,
        lane=events.Lane.Value("LANE_" + arguments.lane.upper()),
    )
    envelope.time.GetCurrentTime()
    uploaded = envelope.document_uploaded
    uploaded.filename = os.path.basename(arguments.file)
    uploaded.content = content
    uploaded.sha256 = hashlib.sha256(content).digest()
    uploaded.external_id = arguments.external_id
    uploaded.collection = arguments.collection
    uploaded.metadata_json = arguments.metadata
    return envelope


def end_of(server, stream):
    """The id of the stream's last entry: answers are read from here on."""
    last = server.xrevrange(stream, count=1)
    return last[0][0] if last else "0-0"


def answer_to(events, server, results, after, envelope, seconds):
    """Reads results until the one of this event; None when the time is over. Also where it stopped."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        block = max(1, min(1000, int(left * 1000)))
        for _, entries in server.xread({results: after}, count=100, block=block) or []:
            for entry_id, fields in entries:
                after = entry_id
                result = events.Envelope.FromString(fields[b"e"]).intake_result
                if (result.event_source, result.event_id) == (envelope.source, envelope.id):
                    return result, after
    return None, after


def publish(events, server, arguments, envelope):
    """Sends the event until it is answered, or until the time-out."""
    intake = f"{arguments.prefix}:{{intake}}:{arguments.tenant}"
    results = f"{intake}:results"
    after = end_of(server, results)
    deadline = time.monotonic() + arguments.timeout
    wait = 5.0
    while (left := deadline - time.monotonic()) > 0:
        server.xadd(intake, {"e": envelope.SerializeToString()})
        result, after = answer_to(events, server, results, after, envelope, min(wait, left))
        if result is not None:
            return result
        wait = min(wait * 2, 60.0)
    return None


def arguments_of(argv):
    parser = argparse.ArgumentParser(description="Publishes a file to Riacho over Redis.")
    parser.add_argument("file")
    parser.add_argument("--redis", default=os.environ.get("REDIS_URL", "redis://localhost:6379"))
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--prefix", default="riacho", help="the deployment's key prefix")
    parser.add_argument("--source", default="publish.py")
    parser.add_argument("--event-id", default="", help="unique within the source; random by default")
    parser.add_argument("--external-id", default="", help="your own id of the document")
    parser.add_argument("--collection", default="")
    parser.add_argument("--metadata", default="", help="a JSON object")
    parser.add_argument("--lane", default="bulk", choices=["interactive", "bulk", "background"])
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the answer")
    parser.add_argument("--proto", default=PROTO, help="directory of the .proto files")
    return parser.parse_args(argv)


def main(argv=None):
    arguments = arguments_of(argv)
    events = load_events(arguments.proto)
    with open(arguments.file, "rb") as file:
        envelope = upload_event(events, arguments, file.read())
    result = publish(events, redis.Redis.from_url(arguments.redis), arguments, envelope)
    if result is None:
        print(json.dumps({"status": "unanswered", "event_id": envelope.id}))
        return 2
    # Field 3 is the status; 1 means accepted.
    if result.status == 1:
        print(json.dumps({"status": "accepted", "event_id": envelope.id,
                          "document": result.document, "version": result.version}))
        return 0
    print(json.dumps({"status": "rejected", "event_id": envelope.id,
                      "error": {"code": result.error_code, "message": result.error_message}}))
    return 1


if __name__ == "__main__":
    sys.exit(main())
