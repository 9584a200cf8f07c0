"""Files of a vector store: attach, poll, list, change, detach."""

import asyncio
import pathlib

import openai

from support import BROKEN, Case, async_client, note

EXAMPLES = pathlib.Path(__file__).resolve().parents[4] / "docs/examples"


class VectorStoreFiles(Case):
    def test_a_document_is_uploaded_and_its_text_can_be_read(self):
        with open(EXAMPLES / "station-handbook.pdf", "rb") as handbook:
            added = self.client.vector_stores.files.upload_and_poll(vector_store_id=self.store.id, file=handbook)
        self.assertEqual((added.object, added.status, added.vector_store_id),
                         ("vector_store.file", "completed", self.store.id))
        self.assertEqual(added.usage_bytes, (EXAMPLES / "station-handbook.pdf").stat().st_size)
        best = self.search("how is the water level gauge calibrated", max_num_results=1)[0]
        self.assertEqual((best.file_id, best.filename, best.content[0].type),
                         (added.id, "station-handbook.pdf", "text"))
        text = self.client.vector_stores.files.content(added.id, vector_store_id=self.store.id).data[0].text
        self.assertIn(best.content[0].text, text)

    def test_a_file_is_attached_with_attributes_and_a_strategy(self):
        file = self.client.files.create(file=note("word " * 900), purpose="assistants")
        attributes = {"author": "Ana", "year": 2024, "ratio": 0.5, "draft": True}
        strategy = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 10}}
        added = self.client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=self.store.id, attributes=attributes, chunking_strategy=strategy)
        self.assertEqual((added.id, added.status, added.attributes), (file.id, "completed", attributes))
        self.assertEqual(added.chunking_strategy.to_dict(), strategy)
        # Cut as it was asked for.
        self.assertGreater(len(self.search("word", max_num_results=50)), 8)
        self.assertEqual(self.search("word", max_num_results=1)[0].attributes, attributes)

    def test_the_same_file_is_in_several_vector_stores_and_once_in_each(self):
        added = self.add("A dipper under the bridge.", attributes={"n": 1})
        other = self.client.vector_stores.create(name="other")
        attach = self.client.vector_stores.files.create_and_poll
        attach(added.id, vector_store_id=other.id, attributes={"n": 2})
        attach(added.id, vector_store_id=self.store.id, attributes={"n": 1})
        self.assertEqual([file.id for file in self.client.vector_stores.files.list(self.store.id)], [added.id])
        self.client.vector_stores.files.delete(added.id, vector_store_id=self.store.id)
        self.assertEqual(self.search("dipper"), [])
        left = self.client.vector_stores.search(other.id, query="dipper").data
        self.assertEqual([(result.file_id, result.attributes) for result in left], [(added.id, {"n": 2})])

    def test_a_file_that_cannot_be_read_says_why(self):
        failed = self.client.vector_stores.files.upload_and_poll(
            vector_store_id=self.store.id, file=BROKEN, max_wait_seconds=300)
        self.assertEqual((failed.status, failed.last_error.code, failed.usage_bytes), ("failed", "invalid_file", 0))
        self.assertIn("corrupt", failed.last_error.message)
        with self.assertRaises(openai.BadRequestError):
            list(self.client.vector_stores.files.content(failed.id, vector_store_id=self.store.id))
        good = self.add("Readable.")
        files = self.client.vector_stores.files
        for status, expected in [("failed", [failed.id]), ("completed", [good.id]), ("in_progress", []), ("cancelled", [])]:
            self.assertEqual([file.id for file in files.list(self.store.id, filter=status)], expected)
        counts = self.client.vector_stores.retrieve(self.store.id).file_counts
        self.assertEqual((counts.failed, counts.completed, counts.total), (1, 1, 2))

    def test_files_are_listed_page_by_page_and_can_be_deleted_meanwhile(self):
        added = [self.add(f"Page {n}.").id for n in range(5)]
        files = self.client.vector_stores.files
        for order, expected in [("asc", added), ("desc", added[::-1])]:
            self.assertEqual([file.id for file in files.list(self.store.id, order=order, limit=2)], expected)
        before = files.list(self.store.id, order="desc", before=added[0], limit=2)
        self.assertEqual([file.id for file in before.data], [added[2], added[1]])
        for file in files.list(self.store.id, limit=2):
            deleted = files.delete(file.id, vector_store_id=self.store.id)
            self.assertEqual((deleted.object, deleted.deleted), ("vector_store.file.deleted", True))
        self.assertEqual(files.list(self.store.id).data, [])

    def test_a_filter_follows_changed_attributes_at_once(self):
        added = self.add("The gauge was read.", attributes={"state": "draft"})
        draft, final = ({"type": "eq", "key": "state", "value": value} for value in ("draft", "final"))
        self.assertEqual(len(self.search("gauge", filters=draft)), 1)
        changed = self.client.vector_stores.files.update(
            added.id, vector_store_id=self.store.id, attributes={"state": "final"})
        self.assertEqual((changed.id, changed.attributes), (added.id, {"state": "final"}))
        self.assertEqual(self.search("gauge", filters=draft), [])
        self.assertEqual([result.attributes for result in self.search("gauge", filters=final)], [{"state": "final"}])
        cleared = self.client.vector_stores.files.update(added.id, vector_store_id=self.store.id, attributes=None)
        self.assertEqual(cleared.attributes, {})

    def test_a_deleted_file_is_found_no_more_at_once_and_stays_a_file(self):
        added = self.add("Kingfisher.")
        self.assertEqual(len(self.search("kingfisher")), 1)
        self.client.vector_stores.files.delete(added.id, vector_store_id=self.store.id)
        self.assertEqual(self.search("kingfisher"), [])
        with self.assertRaises(openai.NotFoundError):
            self.client.vector_stores.files.retrieve(added.id, vector_store_id=self.store.id)
        self.assertIn(b"Kingfisher", self.client.files.content(added.id).read())

    def test_the_asynchronous_client_works_too(self):
        async def upload():
            async with async_client() as client:
                added = await client.vector_stores.files.upload_and_poll(
                    vector_store_id=self.store.id, file=note("Moorhen."), max_wait_seconds=300)
                found = [result.file_id async for result in client.vector_stores.search(self.store.id, query="moorhen")]
                return added, found

        added, found = asyncio.run(upload())
        self.assertEqual((added.status, found), ("completed", [added.id]))
