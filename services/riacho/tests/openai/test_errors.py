"""Errors are those that the SDK knows."""

import uuid

import openai
from openai import OpenAI

from support import URL, Case, client, note


class Errors(Case):
    def test_what_is_not_there_is_not_found(self):
        stores = self.client.vector_stores
        for call in [
            lambda: stores.retrieve(f"vs_{uuid.uuid4().hex}"),
            lambda: stores.retrieve("vs_nonsense"),
            lambda: stores.files.retrieve(f"file-{uuid.uuid4().hex}", vector_store_id=self.store.id),
            lambda: stores.files.create(self.store.id, file_id=f"file-{uuid.uuid4().hex}"),
            lambda: stores.file_batches.retrieve(f"vsfb_{uuid.uuid4().hex}", vector_store_id=self.store.id),
            lambda: self.client.files.retrieve("file-nonsense"),
            # A part of OpenAI's API that is not here.
            lambda: self.client.models.list(),
        ]:
            with self.assertRaises(openai.NotFoundError) as raised:
                call()
            error = raised.exception
            self.assertEqual((error.type, error.code), ("invalid_request_error", "not_found"))
            self.assertIsNotNone(error.request_id)

    def test_a_wrong_key_is_refused(self):
        with OpenAI(base_url=f"{URL}/v1", api_key="rk_wrong_key") as wrong:
            for call in [wrong.files.list, wrong.vector_stores.list, lambda: wrong.vector_stores.create(name="x")]:
                with self.assertRaises(openai.AuthenticationError) as raised:
                    call()
                self.assertEqual(raised.exception.code, "invalid_api_key")

    def test_a_key_may_do_what_its_scopes_say(self):
        self.add("Scoped.")
        with client("READER") as reader:
            self.assertEqual(len(reader.vector_stores.search(self.store.id, query="scoped").data), 1)
            self.assertEqual(reader.vector_stores.retrieve(self.store.id).id, self.store.id)
            for call in [
                lambda: reader.files.create(file=note("x"), purpose="assistants"),
                lambda: reader.vector_stores.create(name="x"),
                lambda: reader.vector_stores.update(self.store.id, name="x"),
                lambda: reader.vector_stores.delete(self.store.id),
            ]:
                with self.assertRaises(openai.PermissionDeniedError):
                    call()

    def test_what_is_wrong_is_named(self):
        stores, files = self.client.vector_stores, self.client.vector_stores.files
        file = self.client.files.create(file=note("x"), purpose="assistants").id

        def attach(**options):
            return lambda: files.create(self.store.id, file_id=file, **options)

        def static(most, overlap):
            return {"type": "static", "static": {"max_chunk_size_tokens": most, "chunk_overlap_tokens": overlap}}

        for call, param in [
            (lambda: stores.search(self.store.id, query=""), "query"),
            (lambda: stores.search(self.store.id, query="x", max_num_results=51), "max_num_results"),
            (lambda: stores.search(self.store.id, query="x", filters={"type": "like", "key": "a", "value": 1}), "filters.type"),
            (lambda: stores.search(self.store.id, query="x", extra_body={"rank": 1}), "rank"),
            (lambda: stores.create(metadata={"a": "b" * 513}), "metadata.a"),
            (lambda: stores.create(expires_after={"anchor": "last_active_at", "days": 0}), "expires_after.days"),
            (lambda: stores.list(limit=101), "limit"),
            (lambda: stores.list(order="up"), "order"),
            (lambda: files.list(self.store.id, filter="ready"), "filter"),
            (lambda: files.list(self.store.id, after="nonsense"), "after"),
            (attach(attributes={str(n): n for n in range(17)}), "attributes"),
            (attach(chunking_strategy=static(99, 0)), "chunking_strategy.static.max_chunk_size_tokens"),
            (attach(chunking_strategy=static(100, 51)), "chunking_strategy.static.chunk_overlap_tokens"),
            (lambda: files.create(self.store.id, file_id="nonsense"), "file_id"),
        ]:
            with self.assertRaises(openai.BadRequestError) as raised:
                call()
            self.assertEqual(raised.exception.param, param, raised.exception)

    def test_a_rate_and_a_quota_are_rate_limits(self):
        with client("LIMITED", max_retries=0) as limited:
            with self.assertRaises(openai.RateLimitError) as raised:
                for _ in range(200):
                    limited.files.list()
            self.assertEqual(raised.exception.code, "rate_limit_exceeded")
            self.assertGreaterEqual(int(raised.exception.response.headers["retry-after"]), 1)
        # The SDK would send again what a rate refused, and does not what a quota did: it says so.
        with client("FULL", max_retries=5) as full:
            store = full.vector_stores.create(name="full")
            file = full.files.create(file=note("one too many"), purpose="assistants")
            with self.assertRaises(openai.RateLimitError) as raised:
                full.vector_stores.files.create(store.id, file_id=file.id)
            self.assertEqual(raised.exception.code, "insufficient_quota")
            self.assertEqual(raised.exception.response.headers["x-should-retry"], "false")
