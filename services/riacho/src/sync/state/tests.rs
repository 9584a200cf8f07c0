//! The file of a state.
#![allow(clippy::unwrap_used)]
use super::*;

fn known(size: u64) -> Known {
    Known {
        size,
        modified: 7,
        changed: 8,
        sha256: "ab".into(),
        document: DocumentId(Uuid::from_u128(u128::from(size))),
        version: 1,
        was_there: false,
    }
}

#[test]
fn what_was_noted_is_there_again_also_after_a_kill_amid_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (path, collection) = (folder.path().join("sub/state"), Uuid::from_u128(1));
    let mut state = State::open(&path, collection).unwrap().state;
    state.put("/a", known(1)).unwrap();
    state.put("/b", known(2)).unwrap();
    state.put("/a", known(3)).unwrap();
    state.put("/c", known(3)).unwrap();
    state.remove("/b").unwrap();
    assert!(state.is_shared(known(3).document) && !state.is_shared(known(1).document));
    assert!(
        state.has_other_bytes(known(3).document, "cd") && !state.has_other_bytes(known(3).document, "ab")
    );
    assert!(!state.has_other_bytes(known(1).document, "cd"), "nothing is of it any more");
    assert!(matches!(State::open(&path, collection), Err(Error::InUse(_))), "one at a time");
    assert!(state.is_ours(known(3).document) && !state.is_ours(known(9).document));
    let key = state.begin("/e").unwrap();
    assert_eq!(state.begin("/a").unwrap(), state.begin("/a").unwrap());
    state.put("/a", known(3)).unwrap();
    drop(state);
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"path\": \"/d\", \"kno");
    fs::write(&path, text).unwrap();
    for _ in 0..2 {
        let mut opened = State::open(&path, collection).unwrap();
        assert!(opened.of_another.is_none());
        assert!(opened.state.is_sending("/e") && !opened.state.is_sending("/a"));
        assert_eq!(opened.state.begin("/e").unwrap(), key, "its answer was lost");
        let (a, c) = (opened.state.get("/a"), opened.state.get("/c"));
        assert_eq!((a, c, opened.state.iter().count()), (Some(&known(3)), Some(&known(3)), 2));
    }
}

#[test]
fn a_document_is_ours_for_all_its_files_whichever_upload_was_answered_first() {
    let folder = tempfile::tempdir().unwrap();
    let (path, collection) = (folder.path().join("state"), Uuid::from_u128(1));
    let mut state = State::open(&path, collection).unwrap().state;
    let there = |size| Known { was_there: true, ..known(size) };
    state.put("/b", there(1)).unwrap();
    state.put("/other", there(2)).unwrap();
    state.put("/a", known(1)).unwrap();
    state.remove("/a").unwrap();
    drop(state);
    let state = State::open(&path, collection).unwrap().state;
    assert!(!state.get("/b").unwrap().was_there && state.is_ours(known(1).document));
    assert!(state.get("/other").unwrap().was_there && !state.is_ours(known(2).document));
}

#[test]
fn what_lies_below_a_path_is_found_and_nothing_else() {
    let mut state = State::in_memory();
    for path in ["/a", "/a/b", "/a/c/d", "/a-b", "/a0", "/b"] {
        state.put(path, known(1)).unwrap();
    }
    assert_eq!(state.below("/a").collect::<Vec<_>>(), ["/a", "/a/b", "/a/c/d"]);
    assert_eq!((state.below("/a/b").count(), state.below("/").count(), state.below("/x").count()), (1, 6, 0));
}

#[test]
fn a_state_of_another_collection_is_not_used_and_a_damaged_one_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    State::open(&path, Uuid::from_u128(1)).unwrap().state.put("/a", known(1)).unwrap();
    let opened = State::open(&path, Uuid::from_u128(2)).unwrap();
    let kept = fs::read_to_string(opened.of_another.unwrap()).unwrap();
    assert!(kept.contains("/a") && opened.state.iter().next().is_none());
    drop(opened.state);
    let good = fs::read_to_string(&path).unwrap();
    for bad in [
        "nonsense".to_owned(),
        format!("{good}nonsense\n"),
        good.replace("state\":1", "state\":99"),
        format!("{good}{{\"path\": \"/a\", \"known\": {{}}}}\n"),
    ] {
        fs::write(&path, &bad).unwrap();
        let error = State::open(&path, Uuid::from_u128(2)).unwrap_err().to_string();
        assert!(
            error.contains("damaged") && error.contains("Remove it") && error.contains("--state"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), bad, "it is not touched");
    }
}
