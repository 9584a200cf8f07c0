//! Search: modes, languages, accents, filters and highlights, over live versions only.

use riacho_domain::DocumentId;
use riacho_store::{Accept, Error, Filter, Hit, Mode, SearchRequest, Target};
use serde_json::json;

use crate::database::{Database, axis, database, upload};

fn keyword(db: &Database, query: &str) -> SearchRequest {
    SearchRequest { mode: Mode::Keyword, ..SearchRequest::new(db.acme.clone(), query) }
}

async fn texts(db: &Database, request: &SearchRequest) -> Vec<String> {
    db.store.search(request).await.unwrap().into_iter().map(|hit| hit.text).collect()
}

fn marked(hit: &Hit) -> Vec<String> {
    let cut =
        |start: u32, end: u32| hit.text.chars().skip(start as usize).take((end - start) as usize).collect();
    hit.highlights.iter().map(|mark| cut(mark.start, mark.end)).collect()
}

async fn described(db: &Database, text: &str, metadata: serde_json::Value) -> DocumentId {
    let accept = Accept { metadata: metadata.as_object().cloned(), ..upload(&db.acme, text) };
    let accepted = db.store.accept(&accept).await.unwrap();
    db.finish(&accepted, "en", &[text]).await;
    accepted.document
}

#[tokio::test]
async fn words_are_found_in_any_form_of_their_language() {
    let db = database().await;
    db.ready(&db.acme, "en", &["The gauges were calibrated yesterday."]).await;
    db.ready(&db.acme, "pt", &["As canções portuguesas falam de saudade."]).await;
    assert_eq!(
        texts(&db, &keyword(&db, "calibrating gauge")).await,
        ["The gauges were calibrated yesterday."]
    );
    for query in ["canção", "canções", "cancoes", "CANÇÃO", "portuguesa"] {
        let found = texts(&db, &keyword(&db, query)).await;
        assert_eq!(found, ["As canções portuguesas falam de saudade."], "{query}");
    }
    assert!(texts(&db, &keyword(&db, "submarine")).await.is_empty());
}

#[tokio::test]
async fn accents_in_text_and_query_do_not_matter() {
    let db = database().await;
    db.ready(&db.acme, "pt", &["A inflação subiu."]).await;
    db.ready(&db.acme, "pt", &["O relatorio de producao."]).await;
    for (query, text) in [
        ("inflação", "A inflação subiu."),
        ("inflacao", "A inflação subiu."),
        ("relatório", "O relatorio de producao."),
        ("produção", "O relatorio de producao."),
        ("producao", "O relatorio de producao."),
    ] {
        assert_eq!(texts(&db, &keyword(&db, query)).await, [text], "{query}");
    }
}

#[tokio::test]
async fn stop_words_do_not_count_with_accents_or_without() {
    let db = database().await;
    db.ready(&db.acme, "pt", &["Nao é verdade: não há nada aqui."]).await;
    db.ready(&db.acme, "pt", &["A inflação subiu."]).await;
    for query in ["não", "nao", "você já não está", "voce ja nao esta"] {
        assert!(texts(&db, &keyword(&db, query)).await.is_empty(), "{query}");
    }
    assert_eq!(texts(&db, &keyword(&db, "não há inflação")).await, ["A inflação subiu."]);
}

#[tokio::test]
async fn a_chunk_with_all_words_comes_before_chunks_with_some() {
    let db = database().await;
    db.ready(
        &db.acme,
        "en",
        &["pump pump pump pump pump", "valve valve valve valve", "the pump has a valve"],
    )
    .await;
    assert_eq!(texts(&db, &keyword(&db, "pump valve")).await[0], "the pump has a valve");
    assert_eq!(texts(&db, &keyword(&db, "pump valve")).await.len(), 3);
}

#[tokio::test]
async fn a_rare_word_weighs_more_than_a_frequent_one() {
    let db = database().await;
    let mut chunks: Vec<String> = (0..40).map(|n| format!("report number {n} about maintenance")).collect();
    chunks.push("zirconium".into());
    let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
    db.ready(&db.acme, "en", &chunks).await;
    assert_eq!(texts(&db, &keyword(&db, "maintenance zirconium")).await[0], "zirconium");
}

#[tokio::test]
async fn words_of_any_frequency_bring_their_chunks() {
    let db = database().await;
    // "barge" is in more chunks than a word brings, "weir" in so many that it is no candidate beside rarer words.
    let mut chunks: Vec<String> = (0..1_500).map(|n| format!("barge number {n}")).collect();
    chunks.extend((0..400).map(|n| format!("weir {n}")));
    chunks.extend((0..300).map(|n| format!("towpath {n}")));
    chunks.extend(["barge and weir and zirconium".into(), "towpath beside the weir".into()]);
    let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
    db.ready(&db.acme, "en", &chunks).await;
    let (_, other) =
        (db.ready(&db.acme, "en", &["lock"]).await, db.ready(&db.acme, "en", &["a barge"]).await);

    let found = texts(&db, &keyword(&db, "zirconium barge")).await;
    assert_eq!((found.len(), found[0].as_str()), (10, "barge and weir and zirconium"));
    let found = texts(&db, &keyword(&db, "towpath weir")).await;
    assert_eq!((found.len(), found[0].as_str()), (10, "towpath beside the weir"));
    assert_eq!(texts(&db, &keyword(&db, "barge")).await.len(), 10);
    assert_eq!(texts(&db, &keyword(&db, "weir towpath zirconium")).await.len(), 10);
    // Where the search is narrowed, what is rare elsewhere says nothing.
    let narrow = SearchRequest { documents: vec![other], ..keyword(&db, "weir zirconium barge") };
    assert_eq!(texts(&db, &narrow).await, ["a barge"]);
}

#[tokio::test]
async fn a_rare_word_of_versions_that_are_gone_hides_no_other_words() {
    let db = database().await;
    let gone: Vec<String> = (0..45).map(|n| format!("kestrel {n}")).collect();
    let gone = db.ready(&db.acme, "en", &gone.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut live: Vec<String> = (0..700).map(|n| format!("weir {n}")).collect();
    live.extend((0..800).map(|n| format!("gauge {n}")));
    db.ready(&db.acme, "en", &live.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(db.store.delete_document(&db.acme, gone).await.unwrap());
    assert_eq!(texts(&db, &keyword(&db, "kestrel weir gauge")).await.len(), 10);
}

#[tokio::test]
async fn counted_words_change_no_answer_but_its_price() {
    let db = database().await;
    let mut chunks: Vec<String> = (0..9_900).map(|n| format!("barge {n} of the harbour's fleet")).collect();
    chunks.extend((0..150).map(|n| format!("o'neil's towpath {n}")));
    chunks.push("the barge and the towpath, canção".into());
    let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
    for part in chunks.chunks(1_000) {
        db.ready(&db.acme, "en", part).await;
    }
    let queries =
        ["barge", "towpath", "barge towpath", "harbour fleet barge", "zirconium barge", "canção barge fleet"];
    let scores = async || {
        let mut all = Vec::new();
        for query in queries {
            let hits = db.store.search(&keyword(&db, query)).await.unwrap();
            all.push(hits.iter().map(|hit| (hit.score * 1e9).round() as i64).collect::<Vec<_>>());
        }
        all
    };
    let before = scores().await;
    assert_eq!(db.janitor.words_due().await.unwrap(), 1);
    assert_eq!(db.janitor.count_words().await.unwrap(), 1);
    // A barge, the harbour, its fleet, and the two headings above all chunks; stop words are no lexemes.
    assert_eq!(db.value("SELECT count(*) FROM frequent_words"), "5");
    assert_eq!(scores().await, before);
    assert_eq!(db.janitor.words_due().await.unwrap(), 0);
    assert_eq!(db.janitor.count_words().await.unwrap(), 0, "nothing has changed");

    // What was counted as frequent and is not any more is found all the same.
    let _ = db.raw.run("UPDATE documents SET deleted_at = now() WHERE id IN (SELECT document_id FROM chunks WHERE text LIKE 'barge 0 %')");
    let _ = db.raw.run("DELETE FROM chunks WHERE text LIKE 'barge%' AND ordinal > 2");
    assert_eq!(texts(&db, &keyword(&db, "towpath barge")).await[0], "the barge and the towpath, canção");
    assert_eq!(db.janitor.count_words().await.unwrap(), 0);
    assert_eq!(
        db.value("SELECT count(*) FROM frequent_words"),
        "0",
        "words of a tenant with few chunks are forgotten"
    );
}

#[tokio::test]
async fn headings_above_a_chunk_find_it() {
    let db = database().await;
    db.ready(&db.acme, "en", &["plain text"]).await;
    assert_eq!(texts(&db, &keyword(&db, "section")).await, ["plain text"]);
}

#[tokio::test]
async fn the_nearest_vectors_come_first_and_hybrid_has_both_legs() {
    let db = database().await;
    db.ready(&db.acme, "en", &["alpha", "beta", "gamma"]).await;
    let near = SearchRequest { mode: Mode::Vector, vector: Some(axis(1).to_vec()), ..keyword(&db, "") };
    let hits = db.store.search(&near).await.unwrap();
    assert_eq!((hits.len(), hits[0].text.as_str(), hits[0].ordinal), (3, "beta", 1));
    assert!((hits[0].score - 1.0).abs() < 1e-3 && hits[1].score.abs() < 1e-3);
    let mut between = axis(1);
    between[2] = 0.8;
    let vector = Some(between.to_vec());
    let both = SearchRequest { mode: Mode::Hybrid, query: "gamma".into(), top_k: 2, vector, ..near };
    let hits = db.store.search(&both).await.unwrap();
    assert_eq!(hits.len(), 2);
    assert_eq!(hits[0].text, "gamma");
    assert_eq!((hits[0].parts.keyword_rank, hits[0].parts.vector_rank.is_some()), (Some(1), true));
    assert_eq!((hits[1].text.as_str(), hits[1].parts.keyword_rank), ("beta", None));
}

#[tokio::test]
async fn hybrid_without_a_vector_is_keyword() {
    let db = database().await;
    db.ready(&db.acme, "en", &["alpha", "beta"]).await;
    let request = SearchRequest::new(db.acme.clone(), "beta");
    assert_eq!(texts(&db, &request).await, ["beta"]);
}

#[tokio::test]
async fn hits_carry_what_a_citation_needs() {
    let db = database().await;
    let accept =
        Accept { external_id: Some("ext".into()), collection: Some("c".into()), ..upload(&db.acme, "x") };
    let accepted = db.store.accept(&accept).await.unwrap();
    let run = db.finish(&accepted, "pt", &["Sobre a inflação, e a Inflação."]).await;
    let hit = db.store.search(&keyword(&db, "inflacao")).await.unwrap().remove(0);
    assert_eq!((hit.document, hit.version, hit.run, hit.ordinal), (accepted.document, 1, run, 0));
    assert_eq!(hit.chunk_id, format!("{}.1.0", accepted.document));
    assert_eq!(
        (hit.filename.as_str(), hit.external_id.as_deref(), hit.collection.as_str()),
        ("note.txt", Some("ext"), "c")
    );
    assert_eq!((hit.page_first, hit.page_last, hit.char_start, hit.char_end), (1, 2, 0, 31));
    assert_eq!(hit.heading_path, ["Part", "Section 0"]);
    assert_eq!(marked(&hit), ["inflação", "Inflação"]);
}

#[tokio::test]
async fn a_part_of_a_table_is_found_by_its_header_row_and_shows_it() {
    let db = database().await;
    db.ready(&db.acme, "en", &["| North | 3 |", "| South | 4 |"]).await;
    let hits = db.store.search(&keyword(&db, "level south")).await.unwrap();
    let found = hits.iter().map(|hit| (hit.text.as_str(), hit.table_header.as_deref()));
    assert_eq!(found.collect::<Vec<_>>(), [("| South | 4 |", Some("| gauge | level |"))]);
    assert_eq!(marked(&hits[0]), ["South"], "the header row is no part of the text");
}

#[tokio::test]
async fn highlights_are_ranges_and_markup_of_the_text_stays_text() {
    let db = database().await;
    let text = "<b>Pumps</b> & <mark>valves</mark>: pumping 'well' — <em>pump()</em>";
    db.ready(&db.acme, "en", &[text]).await;
    let hit = db.store.search(&keyword(&db, "pump")).await.unwrap().remove(0);
    assert_eq!(hit.text, text);
    assert_eq!(marked(&hit), ["Pumps", "pumping", "pump"]);
}

#[tokio::test]
async fn filters_select_documents_by_their_metadata() {
    let db = database().await;
    described(
        &db,
        "report one",
        json!({"author": "Ana", "year": 2020, "tags": ["a", "b"], "deep": {"x": true}}),
    )
    .await;
    described(&db, "report two", json!({"author": "Rui", "year": 2023, "tags": ["b"], "note": null})).await;
    described(&db, "report three", json!({"year": "2021"})).await;
    let cases = [
        (json!({"author": "Ana"}), vec!["report one"]),
        (json!({"author": {"ne": "Ana"}}), vec!["report three", "report two"]),
        (json!({"year": {"gte": 2020, "lt": 2023}}), vec!["report one"]),
        (json!({"year": {"gt": 2000}}), vec!["report one", "report two"]),
        (json!({"year": 2023.0}), vec!["report two"]),
        (json!({"tags": "b"}), vec!["report one", "report two"]),
        (json!({"tags": {"in": ["a", "z"]}}), vec!["report one"]),
        (json!({"deep.x": true}), vec!["report one"]),
        (json!({"note": null}), vec!["report two"]),
        (json!({"author": {"exists": false}}), vec!["report three"]),
        (json!({"or": [{"author": "Ana"}, {"author": "Rui"}]}), vec!["report one", "report two"]),
        (json!({"not": {"tags": "b"}}), vec!["report three"]),
        (json!({"and": [{"tags": "b"}, {"not": {"tags": "a"}}]}), vec!["report two"]),
    ];
    for (filter, expected) in cases {
        let request =
            SearchRequest { filter: Some(Filter::parse(&filter).unwrap()), ..keyword(&db, "report") };
        let mut found = texts(&db, &request).await;
        found.sort();
        assert_eq!(found, expected, "{filter}");
        let near = SearchRequest { mode: Mode::Vector, vector: Some(axis(0).to_vec()), ..request };
        assert_eq!(texts(&db, &near).await.len(), expected.len(), "{filter} by vector");
    }
}

#[tokio::test]
async fn a_filter_cannot_break_out_of_its_place() {
    let db = database().await;
    described(&db, "report", json!({"author": "Ana"})).await;
    for hostile in [
        json!({"author": "x' OR '1'='1"}),
        json!({"author": "\") || (true"}),
        json!({"author\") ? (true)) || exists($.\"author": "x"}),
        json!({"$.author": "Ana"}),
        json!({"author\\": "Ana"}),
        json!({"author": {"in": ["x\") || (1 == 1"]}}),
        json!({"'; DROP TABLE documents; --": "x"}),
    ] {
        let request =
            SearchRequest { filter: Some(Filter::parse(&hostile).unwrap()), ..keyword(&db, "report") };
        assert!(db.store.search(&request).await.unwrap().is_empty(), "{hostile}");
    }
    assert_eq!(texts(&db, &keyword(&db, "report")).await, ["report"]);
}

#[tokio::test]
async fn a_search_is_narrowed_to_a_collection_and_to_documents() {
    let db = database().await;
    let one = db.ready(&db.acme, "en", &["report one"]).await;
    let accept = Accept { collection: Some("second".into()), ..upload(&db.acme, "report two") };
    let accepted = db.store.accept(&accept).await.unwrap();
    db.finish(&accepted, "en", &["report two"]).await;
    let collection = SearchRequest { collection: Some("second".into()), ..keyword(&db, "report") };
    assert_eq!(texts(&db, &collection).await, ["report two"]);
    let documents = SearchRequest { documents: vec![one], ..keyword(&db, "report") };
    assert_eq!(texts(&db, &documents).await, ["report one"]);
    let nowhere = SearchRequest { collection: Some("missing".into()), ..keyword(&db, "report") };
    assert!(texts(&db, &nowhere).await.is_empty());
}

#[tokio::test]
async fn only_live_versions_are_found() {
    let db = database().await;
    let document = db.ready(&db.acme, "en", &["apples"]).await;
    let next = Accept { target: Target::NewVersionOf(document), ..upload(&db.acme, "pears") };
    let accepted = db.store.accept(&next).await.unwrap();
    assert_eq!(texts(&db, &keyword(&db, "apples")).await, ["apples"], "the old one until the flip");
    db.finish(&accepted, "en", &["pears"]).await;
    assert!(texts(&db, &keyword(&db, "apples")).await.is_empty());
    assert_eq!(texts(&db, &keyword(&db, "pears")).await, ["pears"]);
    let near = SearchRequest { mode: Mode::Vector, vector: Some(axis(0).to_vec()), ..keyword(&db, "") };
    assert_eq!(texts(&db, &near).await, ["pears"]);
    let _ = db.raw.run("UPDATE documents SET expires_at = now() - interval '1 second'");
    assert!(texts(&db, &keyword(&db, "pears")).await.is_empty(), "past its time to live");
}

#[tokio::test]
async fn what_is_no_search_is_refused() {
    let db = database().await;
    let good = keyword(&db, "x");
    for bad in [
        SearchRequest { query: "  ".into(), ..good.clone() },
        SearchRequest { query: "a\0b".into(), ..good.clone() },
        SearchRequest { query: "x".repeat(3_000), ..good.clone() },
        SearchRequest { top_k: 0, ..good.clone() },
        SearchRequest { top_k: 1_000_000, ..good.clone() },
        SearchRequest { mode: Mode::Vector, ..good.clone() },
        SearchRequest { mode: Mode::Vector, vector: Some(vec![1.0; 3]), ..good.clone() },
        SearchRequest { mode: Mode::Vector, vector: Some(vec![f32::NAN; 8]), ..good.clone() },
    ] {
        assert!(matches!(db.store.search(&bad).await, Err(Error::Invalid(_))), "{bad:?}");
    }
}

#[tokio::test]
async fn queries_with_signs_of_every_kind_are_only_words() {
    let db = database().await;
    db.ready(
        &db.acme,
        "en",
        &["O'Neil's e-mail is a@b.example, see https://x.example/y?z=1 & C:\\temp (100%)"],
    )
    .await;
    for query in [
        "O'Neil",
        "a & b | !c",
        "' OR 1=1 --",
        "\\",
        "'\\'",
        "<-> :* <2>",
        "a@b.example",
        "C:\\temp",
        "100%",
        "(((",
        "e-mail",
        "https://x.example/y?z=1",
        "\u{2}x\u{3}",
        "日本語",
        "🦀",
        "–—",
    ] {
        db.store.search(&keyword(&db, query)).await.unwrap_or_else(|error| panic!("{query}: {error}"));
    }
    for query in ["O'Neil", "a@b.example", "e-mail"] {
        assert_eq!(texts(&db, &keyword(&db, query)).await.len(), 1, "{query}");
    }
    let long = (0..180).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
    db.store.search(&keyword(&db, &long)).await.unwrap();
}
