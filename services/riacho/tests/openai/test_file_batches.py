"""Batches: many files attached to a vector store with one request."""

import uuid

import openai

from support import BROKEN, Case, client, note


class FileBatches(Case):
    def test_several_files_are_uploaded_and_searchable(self):
        known = self.client.files.create(file=note("Number 9."), purpose="assistants")
        batch = self.client.vector_stores.file_batches.upload_and_poll(
            self.store.id, files=[note(f"Number {n}.") for n in range(7)] + [BROKEN], file_ids=[known.id])
        self.assertEqual((batch.object, batch.status, batch.vector_store_id),
                         ("vector_store.files_batch", "completed", self.store.id))
        counts = batch.file_counts
        self.assertEqual((counts.completed, counts.failed, counts.in_progress, counts.cancelled, counts.total),
                         (8, 1, 0, 0, 9))
        self.assertEqual(len(self.search("number", max_num_results=50)), 8)
        listed = list(self.client.vector_stores.file_batches.list_files(
            batch.id, vector_store_id=self.store.id, limit=4))
        self.assertEqual(len({file.id for file in listed}), 9)
        self.assertIn(known.id, [file.id for file in listed])
        failed = self.client.vector_stores.file_batches.list_files(
            batch.id, vector_store_id=self.store.id, filter="failed").data
        self.assertEqual([file.last_error.code for file in failed], ["invalid_file"])

    def test_each_file_of_a_batch_may_have_attributes_of_its_own(self):
        files = [self.client.files.create(file=note(f"Batch {n}.", f"{n}.txt"), purpose="assistants") for n in range(3)]
        named = [{"file_id": file.id, "attributes": {"n": n}} for n, file in enumerate(files)]
        batch = self.client.vector_stores.file_batches.create_and_poll(self.store.id, files=named)
        self.assertEqual(batch.file_counts.completed, 3)
        self.assertEqual(self.found("batch", filters={"type": "gte", "key": "n", "value": 1}), ["1.txt", "2.txt"])
        shared = self.client.vector_stores.file_batches.create_and_poll(
            self.store.id, file_ids=[file.id for file in files], attributes={"n": 7})
        self.assertEqual(shared.file_counts.total, 3)
        self.assertEqual(len(self.found("batch", filters={"type": "eq", "key": "n", "value": 7})), 3)

    def test_a_batch_can_be_cancelled(self):
        files = [self.client.files.create(file=note(f"Cancelled {n}."), purpose="assistants").id for n in range(20)]
        batches = self.client.vector_stores.file_batches
        batch = batches.create(self.store.id, file_ids=files)
        self.assertEqual(batch.file_counts.total, 20)
        cancelled = batches.cancel(batch.id, vector_store_id=self.store.id)
        self.assertEqual((cancelled.file_counts.in_progress, cancelled.file_counts.total), (0, 20))
        # A batch of which every file was quicker than the request is not cancelled.
        possible = {"cancelled"} if cancelled.file_counts.cancelled else {"cancelled", "completed"}
        self.assertIn(cancelled.status, possible)
        statuses = {file.status for file in batches.list_files(batch.id, vector_store_id=self.store.id)}
        self.assertLessEqual(statuses, {"cancelled", "completed"})

    def test_a_batch_names_files_that_are_there(self):
        batches = self.client.vector_stores.file_batches
        with self.assertRaises(openai.NotFoundError):
            batches.create(self.store.id, file_ids=[f"file-{uuid.uuid4().hex}"])
        for options in [{}, {"file_ids": []}, {"file_ids": ["nonsense"]}]:
            with self.assertRaises(openai.BadRequestError):
                batches.create(self.store.id, **options)
        self.assertEqual(self.client.vector_stores.files.list(self.store.id).data, [])

    def test_another_tenant_sees_no_batch(self):
        batch = self.client.vector_stores.file_batches.upload_and_poll(self.store.id, files=[note("mine")])
        with client("OTHER") as other:
            theirs = other.vector_stores.create(name="theirs")
            for store in [self.store, theirs]:
                for call in [other.vector_stores.file_batches.retrieve, other.vector_stores.file_batches.cancel,
                             other.vector_stores.file_batches.list_files]:
                    with self.assertRaises(openai.NotFoundError):
                        call(batch.id, vector_store_id=store.id)
