"""What the tests of this folder share: clients of OpenAI's SDK as its users make them, and texts to upload.

The environment says where the deployment is (RIACHO_URL) and has keys: RIACHO_KEY of the tenant under test, RIACHO_READER of the
same tenant but for reading and searching only, RIACHO_OTHER of another tenant, RIACHO_LIMITED of one with a low rate,
RIACHO_FULL of one whose quota of documents is used up.
"""

import json
import os
import unittest
import urllib.request
import uuid

from openai import AsyncOpenAI, OpenAI

URL = os.environ["RIACHO_URL"]


def client(key="KEY", **options):
    return OpenAI(base_url=f"{URL}/v1", api_key=os.environ[f"RIACHO_{key}"], **options)


def async_client():
    return AsyncOpenAI(base_url=f"{URL}/v1", api_key=os.environ["RIACHO_KEY"])


def native(path, body=None):
    """Calls Riacho's own API."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {os.environ['RIACHO_KEY']}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers)) as answer:
        return json.load(answer)


def note(text, name="note.txt"):
    """A file as the SDK takes it. Its text is in no other file of these tests."""
    return (name, f"{text} {uuid.uuid4()}\n".encode())


BROKEN = ("broken.pdf", b"%PDF-1.7\nthis is no more than a beginning")


class Case(unittest.TestCase):
    """A test with a client and a vector store of its own."""

    maxDiff = None

    def setUp(self):
        self.client = client()
        self.addCleanup(self.client.close)
        self.store = self.client.vector_stores.create(name=f"{self.id()} {uuid.uuid4()}")

    def add(self, text, name="note.txt", **options):
        """Adds a file to the vector store, and waits until it is searchable."""
        added = self.client.vector_stores.files.upload_and_poll(
            vector_store_id=self.store.id, file=note(text, name), max_wait_seconds=300, **options)
        self.assertEqual((added.status, added.last_error), ("completed", None))
        return added

    def search(self, query, **options):
        return self.client.vector_stores.search(self.store.id, query=query, **options).data

    def found(self, query, **options):
        """Names of the files that are found."""
        return sorted(result.filename for result in self.search(query, **options))
