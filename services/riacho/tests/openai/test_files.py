"""Files: upload, list, read, delete."""

import time
import uuid

import openai

from support import Case, client, note


class Files(Case):
    def test_a_file_is_kept_as_it_was_sent(self):
        name, content = note("The ferry leaves at nine.", "horário da balsa.txt")
        before = int(time.time())
        file = self.client.files.create(file=(name, content), purpose="user_data",
                                        expires_after={"anchor": "created_at", "seconds": 3600})
        self.assertEqual((file.object, file.bytes, file.filename, file.purpose, file.status),
                         ("file", len(content), name, "user_data", "processed"))
        self.assertTrue(file.id.startswith("file-"), file.id)
        self.assertTrue(before - 5 <= file.created_at <= time.time() + 5, file.created_at)
        self.assertEqual(file.expires_at, file.created_at + 3600)
        self.assertEqual(self.client.files.retrieve(file.id), file)
        self.assertEqual(self.client.files.content(file.id).read(), content)

    def test_files_are_listed_page_by_page_in_both_orders(self):
        made = [self.client.files.create(file=note(f"file {n}"), purpose="vision").id for n in range(5)]
        for order, expected in [("asc", made), ("desc", made[::-1])]:
            pages = self.client.files.list(purpose="vision", order=order, limit=2)
            self.assertEqual(len(pages.data), 2)
            self.assertTrue(pages.has_more)
            # The SDK fetches the following pages by itself.
            self.assertEqual([file.id for file in pages if file.id in made], expected)
        self.assertNotIn(made[0], [file.id for file in self.client.files.list(purpose="evals")])

    def test_a_list_can_be_deleted_while_it_is_read(self):
        made = {self.client.files.create(file=note(f"file {n}"), purpose="evals").id for n in range(5)}
        for file in self.client.files.list(purpose="evals", limit=2):
            deleted = self.client.files.delete(file.id)
            self.assertEqual((deleted.id, deleted.object, deleted.deleted), (file.id, "file", True))
            made.discard(file.id)
        self.assertEqual(made, set())
        self.assertEqual(self.client.files.list(purpose="evals").data, [])

    def test_a_deleted_file_is_gone_from_every_vector_store_at_once(self):
        file = self.client.files.create(file=note("Quillwort grows by the weir.", "weir.txt"), purpose="assistants")
        other = self.client.vector_stores.create(name=f"other {uuid.uuid4()}")
        for store in [self.store, other]:
            added = self.client.vector_stores.files.create_and_poll(
                file.id, vector_store_id=store.id, max_wait_seconds=300)
            self.assertEqual((added.id, added.status), (file.id, "completed"))
            results = self.client.vector_stores.search(store.id, query="quillwort").data
            self.assertEqual([result.file_id for result in results], [file.id])
        self.client.files.delete(file.id)
        for store in [self.store, other]:
            self.assertEqual(self.client.vector_stores.search(store.id, query="quillwort").data, [])
            self.assertEqual(self.client.vector_stores.files.list(store.id).data, [])
            self.assertEqual(self.client.vector_stores.retrieve(store.id).file_counts.total, 0)
        for call in [self.client.files.retrieve, self.client.files.content, self.client.files.delete]:
            with self.assertRaises(openai.NotFoundError):
                call(file.id)

    def test_what_is_no_file_is_refused(self):
        for options, param in [
            ({"file": note("x"), "purpose": "decoration"}, "purpose"),
            ({"file": ("empty.txt", b""), "purpose": "assistants"}, None),
            ({"file": note("x"), "purpose": "assistants",
              "expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after[seconds]"),
        ]:
            with self.assertRaises(openai.BadRequestError) as raised:
                self.client.files.create(**options)
            self.assertEqual(raised.exception.param, param)
            self.assertEqual(raised.exception.type, "invalid_request_error")

    def test_another_tenant_sees_no_file(self):
        file = self.client.files.create(file=note("mine"), purpose="assistants")
        with client("OTHER") as other:
            self.assertNotIn(file.id, [theirs.id for theirs in other.files.list()])
            for call in [other.files.retrieve, other.files.content, other.files.delete]:
                with self.assertRaises(openai.NotFoundError):
                    call(file.id)
            store = other.vector_stores.create(name="theirs")
            with self.assertRaises(openai.NotFoundError):
                other.vector_stores.files.create(store.id, file_id=file.id)
        self.assertEqual(self.client.files.retrieve(file.id).id, file.id)
