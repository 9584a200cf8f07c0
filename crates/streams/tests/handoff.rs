//! The handoff checks all, then applies entry by entry; each entry has its own answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use riacho_domain::{DelayClass, DocumentId, Lane, ReleaseId, StageName};
use riacho_proto::{Message, v1::Envelope};
use riacho_streams::{Action, Answer, Entry, Reader, ReleaseOutcome, Settlement, Target};
use support::Server;

const STAGE: StageName = StageName::Extract;
const NEXT: Target = Target::Work(StageName::Embed, Lane::Interactive);
const WAIT: Duration = Duration::from_millis(500);

fn event(id: &str) -> String {
    format!("envelope {id}")
}

async fn add(server: &Server, id: &str) -> ReleaseOutcome {
    let body = event(id);
    server.streams.release(0, Lane::Interactive, body.as_bytes(), ReleaseId::new()).await.unwrap()
}

async fn reader(server: &Server, consumer: &str) -> Reader {
    server.streams.reader(0, STAGE, consumer).await.unwrap()
}

async fn one(server: &Server, consumer: &str, id: &str) -> Entry {
    add(server, id).await;
    let reader = reader(server, consumer).await;
    let mut entries = reader.read_any(10, WAIT).await.unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn done(entry: &Entry, id: &str, outputs: usize) -> Settlement {
    let outputs = (0..outputs).map(|n| (NEXT, Bytes::from(format!("output {n} of {id}")))).collect();
    Settlement::of(entry, id, Action::Done(outputs))
}

async fn handoff(server: &Server, consumer: &str, settlements: &[Settlement]) -> Vec<Answer> {
    server.streams.handoff(0, STAGE, consumer, settlements).await.unwrap()
}

#[tokio::test]
async fn a_stranger_is_fenced_the_owner_is_done_and_a_repetition_is_gone() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let settlement = [done(&entry, "e1", 1)];
    assert_eq!(handoff(&server, "b", &settlement).await, [Answer::Fenced]);
    assert_eq!(handoff(&server, "a", &settlement).await, [Answer::Done]);
    // The reply was lost, say: sent again it is gone, not fenced, and adds nothing.
    assert_eq!(handoff(&server, "a", &settlement).await, [Answer::Gone]);
    let keys = server.streams.keys();
    assert_eq!(server.len(&keys.work(0, StageName::Embed, Lane::Interactive)), 1);
    assert_eq!(server.len(&keys.work(0, STAGE, Lane::Interactive)), 0);
}

#[tokio::test]
async fn many_entries_in_any_order_among_those_of_others_each_get_their_answer() {
    let server = Server::start().await;
    let (mine, others) = (reader(&server, "a").await, reader(&server, "b").await);
    let mut held = Vec::new();
    // Every other entry is another consumer's.
    for number in 0..8 {
        let id = format!("e{number}");
        add(&server, &id).await;
        let reader = if number % 2 == 0 { &mine } else { &others };
        held.push((reader.read_any(1, WAIT).await.unwrap().remove(0), id));
    }
    let mut settlements: Vec<Settlement> = held.iter().map(|(entry, id)| done(entry, id, 1)).collect();
    settlements.reverse();
    // The last one comes a second time in the same call.
    settlements.push(settlements[7].clone());
    let answers = handoff(&server, "a", &settlements).await;
    let (done, fenced) = (Answer::Done, Answer::Fenced);
    let expected = [&fenced, &done, &fenced, &done, &fenced, &done, &fenced, &done, &Answer::Gone];
    assert_eq!(answers.iter().collect::<Vec<_>>(), expected);
    let keys = server.streams.keys();
    assert_eq!(server.len(&keys.work(0, STAGE, Lane::Interactive)), 4, "those of the other consumer");
    assert_eq!(server.len(&keys.work(0, StageName::Embed, Lane::Interactive)), 4);
}

#[tokio::test]
async fn an_older_delivery_and_another_envelope_are_refused() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let mut older = done(&entry, "e1", 1);
    older.deliveries = 7;
    assert_eq!(handoff(&server, "a", &[older]).await, [Answer::Fenced]);
    assert_eq!(handoff(&server, "a", &[done(&entry, "e2", 1)]).await, [Answer::Gone]);
    assert_eq!(handoff(&server, "a", &[done(&entry, "e1", 1)]).await, [Answer::Done]);
}

#[tokio::test]
async fn a_target_of_the_wrong_type_loses_nothing_and_spoils_no_neighbour() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let neighbour = one(&server, "a", "e2").await;
    let key = server.streams.keys().work(0, StageName::Embed, Lane::Interactive);
    server.raw(&["SET", key.as_str(), "no stream"]);
    let other = Settlement::of(&neighbour, "e2", Action::Done(vec![]));
    let answers = handoff(&server, "a", &[done(&entry, "e1", 2), other]).await;
    assert!(matches!(&answers[0], Answer::Refused(reason) if reason.contains("not a stream")), "{answers:?}");
    assert_eq!(answers[1], Answer::Done);
    server.raw(&["DEL", key.as_str()]);
    assert_eq!(handoff(&server, "a", &[done(&entry, "e1", 2)]).await, [Answer::Done]);
    assert_eq!(server.len(&key), 2);
}

#[tokio::test]
async fn a_source_that_is_no_stream_any_more_spoils_no_other_lane() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let release = ReleaseId::new();
    server.streams.release(0, Lane::Bulk, event("e2").as_bytes(), release).await.unwrap();
    let other = reader(&server, "a").await.read_any(10, WAIT).await.unwrap().remove(0);
    let key = server.streams.keys().work(0, STAGE, Lane::Interactive);
    server.raw(&["DEL", key.as_str()]);
    server.raw(&["SET", key.as_str(), "no stream"]);
    let answers = handoff(&server, "a", &[done(&entry, "e1", 1), done(&other, "e2", 1)]).await;
    assert_eq!(answers, [Answer::Gone, Answer::Done]);
}

#[tokio::test]
async fn a_full_target_answers_full_and_changes_nothing() {
    let server = Server::start_with(|config| config.stream_max_bytes = 40).await;
    let entry = one(&server, "a", "e1").await;
    let next = one(&server, "a", "e2").await;
    let answers = handoff(&server, "a", &[done(&entry, "e1", 2), done(&next, "e2", 2)]).await;
    assert_eq!(answers, [Answer::Done, Answer::Full]);
    let reader = server.streams.reader(0, StageName::Embed, "b").await.unwrap();
    let entries = reader.read_any(10, WAIT).await.unwrap();
    let settled: Vec<_> = entries.iter().map(|e| Settlement::of(e, "", Action::Done(vec![]))).collect();
    let answers = server.streams.handoff(0, StageName::Embed, "b", &settled).await.unwrap();
    assert_eq!(answers, [Answer::Done, Answer::Done]);
    assert_eq!(handoff(&server, "a", &[done(&next, "e2", 2)]).await, [Answer::Done]);
}

#[tokio::test]
async fn a_stream_that_was_deleted_at_its_cap_takes_outputs_again() {
    let server = Server::start_with(|config| config.stream_max_bytes = 40).await;
    let entry = one(&server, "a", "e1").await;
    let next = one(&server, "a", "e2").await;
    let answers = handoff(&server, "a", &[done(&entry, "e1", 2), done(&next, "e2", 2)]).await;
    assert_eq!(answers, [Answer::Done, Answer::Full]);
    let key = server.streams.keys().work(0, StageName::Embed, Lane::Interactive);
    server.raw(&["DEL", key.as_str()]);
    // Its reader makes it again, empty.
    server.streams.reader(0, StageName::Embed, "b").await.unwrap().close().await;
    assert_eq!(handoff(&server, "a", &[done(&next, "e2", 2)]).await, [Answer::Done]);
    assert_eq!(server.len(&key), 2);
}

#[tokio::test]
async fn the_bytes_of_a_stream_are_counted_and_end_at_zero() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let figures = server.streams.figures(STAGE, &[0]).await.unwrap();
    assert_eq!(figures.bytes, event("e1").len() as u64);
    handoff(&server, "a", &[done(&entry, "e1", 3)]).await;
    assert_eq!(server.streams.figures(STAGE, &[0]).await.unwrap().bytes, 0);
    assert_eq!(server.streams.figures(StageName::Embed, &[0]).await.unwrap().bytes, 42);
}

#[tokio::test]
async fn a_server_at_its_memory_limit_still_drains() {
    let server = Server::start().await;
    let (entry, other) = (one(&server, "a", "e1").await, one(&server, "a", "e2").await);
    server.raw(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let emit = Settlement::of(&other, "e2", Action::Emit(vec![(NEXT, Bytes::from_static(b"more"))]));
    let answers = handoff(&server, "a", &[emit]).await;
    assert_eq!(answers, [Answer::Full], "what only adds has to wait");
    assert_eq!(handoff(&server, "a", &[done(&entry, "e1", 1)]).await, [Answer::Done]);
    server.raw(&["CONFIG", "SET", "maxmemory", "0"]);
}

#[tokio::test]
async fn a_release_sent_twice_is_one_entry() {
    let server = Server::start().await;
    let release = ReleaseId::new();
    let send = || server.streams.release(0, Lane::Bulk, b"envelope", release);
    assert_eq!(send().await.unwrap(), ReleaseOutcome::Added);
    assert_eq!(send().await.unwrap(), ReleaseOutcome::AlreadyThere);
    assert_eq!(server.len(&server.streams.keys().work(0, STAGE, Lane::Bulk)), 1);
}

#[tokio::test]
async fn a_release_waits_for_a_full_stream() {
    let server = Server::start_with(|config| config.stream_max_bytes = 20).await;
    assert_eq!(add(&server, "e1").await, ReleaseOutcome::Added);
    assert_eq!(add(&server, "e2").await, ReleaseOutcome::Full);
}

#[tokio::test]
async fn a_deferred_entry_is_due_when_its_class_has_passed_and_not_before() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let long = one(&server, "a", "e2").await;
    let defer = |entry, id, class| Settlement::of(entry, id, Action::Retry(class, 1));
    let start = std::time::Instant::now();
    let both = [defer(&long, "e2", DelayClass::FiveSeconds), defer(&entry, "e1", DelayClass::OneSecond)];
    assert_eq!(handoff(&server, "a", &both).await, [Answer::Done, Answer::Done]);
    // A late result of the run that was deferred is fenced.
    assert_eq!(handoff(&server, "a", &[done(&entry, "e1", 1)]).await, [Answer::Fenced]);
    let due = loop {
        let due = server.streams.take_due(0, STAGE, "b", 10).await.unwrap();
        if !due.is_empty() {
            break due;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(950) && waited < Duration::from_secs(3), "{waited:?}");
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].id.as_str(), due[0].deliveries), (entry.id.as_str(), 2));
}

#[tokio::test]
async fn a_handed_back_entry_is_due_at_once_without_an_attempt() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    handoff(&server, "a", &[Settlement::of(&entry, "e1", Action::HandBack(0))]).await;
    let due = server.streams.take_due(0, STAGE, "b", 10).await.unwrap();
    assert_eq!((due[0].id.as_str(), due[0].deliveries), (entry.id.as_str(), 1));
}

#[tokio::test]
async fn an_entry_whose_delivery_was_lost_is_fetched_again_without_an_attempt() {
    let server = Server::start().await;
    add(&server, "e1").await;
    let reader = reader(&server, "a").await;
    let key = server.streams.keys().work(0, STAGE, Lane::Interactive);
    server.raw(&["XREADGROUP", "GROUP", "extract", "a", "STREAMS", key.as_str(), ">"]);
    let own = reader.own_pending().await.unwrap();
    assert_eq!(own.len(), 1);
    let entries = reader.recover(own[0].0, std::slice::from_ref(&own[0].1)).await.unwrap();
    assert_eq!((entries[0].deliveries, &entries[0].body[..]), (1, event("e1").as_bytes()));
    let strange = server.streams.reader(0, STAGE, "b").await.unwrap();
    let stolen = strange.recover(own[0].0, std::slice::from_ref(&own[0].1)).await.unwrap();
    assert!(stolen.is_empty(), "a former owner does not steal it back");
}

#[tokio::test]
async fn length_is_lag_and_pending_at_every_step() {
    let server = Server::start().await;
    let exact = async |lag, pending| {
        let figures = server.streams.figures(STAGE, &[0]).await.unwrap();
        assert_eq!((figures.lag, figures.pending, figures.conservation_error), (Some(lag), pending, 0));
        assert_eq!(figures.backlog, lag + pending);
        figures
    };
    for n in 0..4 {
        add(&server, &format!("e{n}")).await;
    }
    exact(4, 0).await;
    let entries = reader(&server, "a").await.read_any(3, WAIT).await.unwrap();
    exact(1, 3).await;
    handoff(&server, "a", &[done(&entries[0], "e0", 1)]).await;
    exact(1, 2).await;
    handoff(&server, "a", &[Settlement::of(&entries[1], "e1", Action::Retry(DelayClass::OneHour, 1))]).await;
    assert_eq!(exact(1, 2).await.retrying, 1);
}

#[tokio::test]
async fn scripts_are_sent_again_where_the_server_forgot_them() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    server.raw(&["SCRIPT", "FLUSH"]);
    assert_eq!(handoff(&server, "a", &[done(&entry, "e1", 1)]).await, [Answer::Done]);
}

#[tokio::test]
async fn dead_letters_are_listed_and_removed_with_their_bytes() {
    let server = Server::start().await;
    let entry = one(&server, "a", "e1").await;
    let dead = Action::Done(vec![(Target::Dead, Bytes::from_static(b"letter"))]);
    handoff(&server, "a", &[Settlement::of(&entry, "e1", dead)]).await;
    let letters = server.streams.dead_letters(0, 10).await.unwrap();
    assert_eq!((letters.len(), &letters[0].envelope[..]), (1, &b"letter"[..]));
    assert_eq!(server.streams.remove_dead(0, &[letters[0].stream_id.clone()]).await.unwrap(), 1);
    assert_eq!(server.streams.dead_letter_count(0).await.unwrap(), 0);
    assert_eq!(server.raw(&["EXISTS", &server.streams.keys().sizes(0)]).int(), 0);
}

#[tokio::test]
async fn entries_of_a_document_are_removed_whoever_holds_them_and_no_others() {
    let server = Server::start().await;
    let streams = &server.streams;
    let (gone, dead, kept) = (DocumentId::new(), DocumentId::new(), DocumentId::new());
    let envelope = |document: DocumentId, id: String, bytes: usize| {
        let envelope = Envelope {
            id,
            subject: "s".repeat(bytes),
            document: document.to_string(),
            release: ReleaseId::new().to_string(),
            ..Envelope::default()
        };
        Bytes::from(envelope.encode_to_vec())
    };
    // More than are looked at in one call, and some whose address does not stand at the beginning.
    let mut kept_bytes = b"no envelope".len();
    for number in 0..150 {
        let document = if number % 3 == 0 { gone } else { kept };
        let body = envelope(document, format!("e{number}"), if number % 2 == 0 { 2_000 } else { 0 });
        kept_bytes += if document == kept { body.len() } else { 0 };
        streams.release(0, Lane::Interactive, &body, ReleaseId::new()).await.unwrap();
    }
    streams.release(0, Lane::Interactive, b"no envelope", ReleaseId::new()).await.unwrap();
    // One runs, one waits for its next attempt, one has become a dead letter, the others are unread.
    let entries = reader(&server, "a").await.read_any(7, WAIT).await.unwrap();
    let waits = Settlement::of(&entries[3], "e3", Action::Retry(DelayClass::OneHour, 1));
    let letter = vec![(Target::Dead, envelope(dead, "letter".to_owned(), 0))];
    let letter = Settlement::of(&entries[6], "e6", Action::Done(letter));
    assert_eq!(handoff(&server, "a", &[waits, letter]).await, [Answer::Done, Answer::Done]);

    let documents = HashSet::from([gone, dead, DocumentId::new()]);
    let removed = streams.remove_documents(0, &documents).await.unwrap();
    assert_eq!(removed, HashMap::from([(gone, 49), (dead, 1)]));
    assert_eq!(handoff(&server, "a", &[done(&entries[0], "e0", 1)]).await, [Answer::Gone]);
    assert_eq!(streams.dead_letter_count(0).await.unwrap(), 0);
    let figures = streams.figures(STAGE, &[0]).await.unwrap();
    assert_eq!((figures.backlog, figures.pending, figures.retrying), (101, 4, 0), "those of others");
    assert_eq!(figures.bytes, kept_bytes as u64);
    assert_eq!(streams.remove_documents(0, &documents).await.unwrap(), HashMap::new());
}
