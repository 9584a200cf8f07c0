"""Searching a vector store."""

import uuid

from support import Case, client, native, note

FILES = {
    "ana-2020.txt": {"author": "Ana", "year": 2020, "draft": False, "dotted.key": "x"},
    "ana-2023.txt": {"author": "Ana", "year": 2023, "draft": True},
    "rui-2023.txt": {"author": "Rui", "year": 2023.5},
    "nobody.txt": {},
}


class Search(Case):
    """All tests of this class search one vector store, and change nothing in it."""

    @classmethod
    def setUpClass(cls):
        with client() as openai:
            cls.shared = openai.vector_stores.create(name=f"searched {uuid.uuid4()}")
            named = []
            for name, attributes in FILES.items():
                file = openai.files.create(file=note(f"The report of the river station {name}.", name), purpose="assistants")
                named.append({"file_id": file.id, "attributes": attributes})
            batch = openai.vector_stores.file_batches.create_and_poll(cls.shared.id, files=named)
            assert batch.file_counts.completed == len(FILES), batch

    def setUp(self):
        self.client = client()
        self.addCleanup(self.client.close)
        self.store = self.shared

    def check(self, filters, *names):
        self.assertEqual(self.found("river station report", filters=filters), sorted(names), filters)

    def test_each_comparison_is_made_by_the_search(self):
        def leaf(kind, key, value):
            return {"type": kind, "key": key, "value": value}

        a20, a23, r23, nobody = FILES
        self.check(leaf("eq", "author", "Ana"), a20, a23)
        self.check(leaf("eq", "year", 2023), a23)
        self.check(leaf("eq", "draft", True), a23)
        self.check(leaf("eq", "dotted.key", "x"), a20)
        self.check(leaf("ne", "author", "Ana"), r23, nobody)
        self.check(leaf("gt", "year", 2020), a23, r23)
        self.check(leaf("gte", "year", 2020), a20, a23, r23)
        self.check(leaf("lt", "year", 2023.5), a20, a23)
        self.check(leaf("lte", "year", 2023.5), a20, a23, r23)
        self.check(leaf("gt", "author", "Ana"), r23)
        self.check(leaf("in", "author", ["Rui", "Eva"]), r23)
        self.check(leaf("in", "year", [2020, 2023]), a20, a23)
        self.check(leaf("nin", "author", ["Rui", "Eva"]), a20, a23, nobody)
        self.check(leaf("eq", "year", "2023"))
        self.check(leaf("gt", "author", 1))

    def test_comparisons_are_combined(self):
        ana = {"type": "eq", "key": "author", "value": "Ana"}
        late = {"type": "gt", "key": "year", "value": 2021}
        draft = {"type": "eq", "key": "draft", "value": False}
        a20, a23, r23, _ = FILES
        self.check({"type": "and", "filters": [ana, late]}, a23)
        self.check({"type": "or", "filters": [ana, late]}, a20, a23, r23)
        self.check({"type": "and", "filters": [late, {"type": "or", "filters": [ana, draft]}]}, a23)
        self.check({"type": "or", "filters": [draft, {"type": "and", "filters": [ana, late]}]}, a20, a23)

    def test_results_are_those_of_the_search_with_their_texts_and_scores(self):
        hits = native("/api/v1/search", {"query": "station report 2023", "collection": self.store.name,
                                         "filter": {"author": "Ana"}})["hits"]
        results = self.search("station report 2023", filters={"type": "eq", "key": "author", "value": "Ana"})
        self.assertEqual([(r.filename, r.content[0].text, r.score) for r in results],
                         [(h["filename"], h["text"], h["score"]) for h in hits])
        self.assertEqual(len(results), 2)
        self.assertTrue(all(result.attributes == FILES[result.filename] for result in results))
        scores = [result.score for result in results]
        self.assertEqual(scores, sorted(scores, reverse=True))

    def test_the_number_and_the_score_of_results_have_bounds(self):
        self.assertEqual(len(self.search("river station", max_num_results=3)), 3)
        all_of_them = self.search("river station 2020")
        best = all_of_them[0].score
        self.assertLess(all_of_them[-1].score, best)
        only_best = self.search("river station 2020", rewrite_query=True,
                                ranking_options={"ranker": "auto", "score_threshold": best - 1e-9})
        self.assertEqual([result.score for result in only_best], [best])

    def test_several_queries_are_one_search(self):
        page = self.client.vector_stores.search(self.store.id, query=["report of ana", "report of rui"])
        self.assertEqual((page.object, page.model_extra["search_query"]),
                         ("vector_store.search_results.page", ["report of ana", "report of rui"]))
        files = [result.file_id for result in page.data]
        self.assertEqual((len(files), len(set(files))), (len(FILES), len(FILES)))
