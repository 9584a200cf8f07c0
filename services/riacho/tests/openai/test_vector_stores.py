"""Vector stores: make, list, change, delete."""

import uuid

import openai

from support import Case, client, native, note


class VectorStores(Case):
    def test_a_vector_store_is_what_it_was_made_with(self):
        name = f"manuals {uuid.uuid4()}"
        store = self.client.vector_stores.create(
            name=name, metadata={"team": "river"}, expires_after={"anchor": "last_active_at", "days": 3})
        self.assertEqual((store.object, store.name, store.metadata, store.status),
                         ("vector_store", name, {"team": "river"}, "completed"))
        self.assertEqual((store.expires_after.anchor, store.expires_after.days), ("last_active_at", 3))
        self.assertEqual(store.expires_at, store.last_active_at + 3 * 86400)
        self.assertEqual((store.usage_bytes, store.file_counts.total), (0, 0))
        self.assertEqual(self.client.vector_stores.retrieve(store.id), store)
        # It is a collection of that name.
        self.assertIn(name, [collection["name"] for collection in native("/api/v1/collections")["collections"]])

    def test_names_need_not_differ_and_may_be_missing(self):
        name = f"twice {uuid.uuid4()}"
        first, second = (self.client.vector_stores.create(name=name) for _ in range(2))
        self.assertNotEqual(first.id, second.id)
        self.assertEqual((first.name, second.name), (name, name))
        self.assertEqual(self.client.vector_stores.create().object, "vector_store")

    def test_a_vector_store_is_changed_in_what_is_named_only(self):
        store = self.client.vector_stores.create(name="before", metadata={"a": "1"},
                                                 expires_after={"anchor": "last_active_at", "days": 1})
        changed = self.client.vector_stores.update(store.id, name="after")
        self.assertEqual((changed.name, changed.metadata, changed.expires_after.days), ("after", {"a": "1"}, 1))
        changed = self.client.vector_stores.update(store.id, metadata={"b": "2"}, expires_after=None)
        self.assertEqual((changed.name, changed.metadata, changed.expires_after, changed.expires_at),
                         ("after", {"b": "2"}, None, None))
        self.assertEqual(self.client.vector_stores.retrieve(store.id), changed)

    def test_vector_stores_are_listed_page_by_page_in_both_directions(self):
        made = [self.client.vector_stores.create(name=f"listed {n}").id for n in range(5)]
        for order, expected in [("asc", made), ("desc", made[::-1])]:
            listed = [store.id for store in self.client.vector_stores.list(order=order, limit=2) if store.id in made]
            self.assertEqual(listed, expected)
        before = self.client.vector_stores.list(order="asc", before=made[4], limit=2)
        self.assertEqual([store.id for store in before.data], made[2:4])
        self.assertTrue(before.has_more)

    def test_a_vector_store_is_made_with_files(self):
        files = [self.client.files.create(file=note(f"Otter number {n}.", f"otter-{n}.txt"), purpose="assistants")
                 for n in range(2)]
        store = self.client.vector_stores.create(
            name="with files", file_ids=[file.id for file in files],
            chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 20}})
        for file in files:
            added = self.client.vector_stores.files.poll(file.id, vector_store_id=store.id, max_wait_seconds=300)
            self.assertEqual(added.status, "completed")
            self.assertEqual(added.chunking_strategy.static.max_chunk_size_tokens, 200)
        store = self.client.vector_stores.retrieve(store.id)
        self.assertEqual((store.file_counts.completed, store.file_counts.total, store.status), (2, 2, "completed"))
        self.assertEqual(store.usage_bytes, sum(file.bytes for file in files))
        with self.assertRaises(openai.NotFoundError):
            self.client.vector_stores.create(name="with none", file_ids=[f"file-{uuid.uuid4().hex}"])

    def test_a_deleted_vector_store_is_gone_and_its_files_stay(self):
        added = self.add("The heron of Zyqvoria stands in the shallows.")
        deleted = self.client.vector_stores.delete(self.store.id)
        self.assertEqual((deleted.id, deleted.object, deleted.deleted),
                         (self.store.id, "vector_store.deleted", True))
        for call in [self.client.vector_stores.retrieve, self.client.vector_stores.delete,
                     lambda store: self.client.vector_stores.search(store, query="heron"),
                     self.client.vector_stores.files.list,
                     lambda store: self.client.vector_stores.files.retrieve(added.id, vector_store_id=store)]:
            with self.assertRaises(openai.NotFoundError):
                call(self.store.id)
        self.assertEqual(native("/api/v1/search", {"query": "zyqvoria", "mode": "keyword"})["hits"], [])
        self.assertEqual(self.client.files.retrieve(added.id).id, added.id)
        # Its name is free again, and the file can be attached anew.
        self.store = self.client.vector_stores.create(name=self.store.name)
        again = self.client.vector_stores.files.create_and_poll(
            added.id, vector_store_id=self.store.id, max_wait_seconds=300)
        self.assertEqual(again.status, "completed")
        self.assertEqual([result.file_id for result in self.search("heron")], [added.id])

    def test_what_came_by_the_other_api_is_in_the_vector_store_too(self):
        added = self.add("Sedge on the left bank.")
        hits = native("/api/v1/search", {"query": "sedge", "collection": self.store.name})["hits"]
        self.assertEqual([hit["external_id"] for hit in hits], [f"{self.store.id}/{added.id}"])

    def test_another_tenant_sees_no_vector_store(self):
        with client("OTHER") as other:
            self.assertNotIn(self.store.id, [theirs.id for theirs in other.vector_stores.list()])
            for call in [other.vector_stores.retrieve, other.vector_stores.delete, other.vector_stores.files.list,
                         lambda store: other.vector_stores.update(store, name="theirs now"),
                         lambda store: other.vector_stores.search(store, query="river")]:
                with self.assertRaises(openai.NotFoundError):
                    call(self.store.id)
        self.assertEqual(self.client.vector_stores.retrieve(self.store.id).name, self.store.name)
