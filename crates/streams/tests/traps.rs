//! What Redis and fred really do, where that would cost entries or time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use riacho_domain::{DelayClass, Lane, ReleaseId, StageName};
use riacho_streams::{
    Action, Answer, Entry, Error, ReleaseOutcome, Settlement, StageFigures, Target, consumer_name,
};
use support::Server;

const STAGE: StageName = StageName::Extract;
const LONG: Duration = Duration::from_secs(3);

async fn add(server: &Server, lane: Lane, count: usize) {
    for n in 0..count {
        let body = format!("envelope {n}");
        let answer = server.streams.release(0, lane, body.as_bytes(), ReleaseId::new()).await.unwrap();
        assert_eq!(answer, ReleaseOutcome::Added);
    }
}

/// So many entries of the interactive lane, held by `a`.
async fn held(server: &Server, count: usize) -> Vec<Entry> {
    add(server, Lane::Interactive, count).await;
    let reader = server.streams.reader(0, STAGE, "a").await.unwrap();
    let entries = reader.read_lanes([count, 0, 0]).await.unwrap();
    assert_eq!(entries.len(), count);
    entries
}

async fn settle(server: &Server, entries: &[Entry], action: &Action) -> Vec<Answer> {
    let settlements: Vec<_> = entries.iter().map(|entry| Settlement::of(entry, "", action.clone())).collect();
    server.streams.handoff(0, STAGE, "a", &settlements).await.unwrap()
}

async fn figures(server: &Server) -> StageFigures {
    server.streams.figures(STAGE, &[0]).await.unwrap()
}

fn key(server: &Server, lane: Lane) -> String {
    server.streams.keys().work(0, STAGE, lane)
}

/// Waits until a client of the server is blocked.
async fn until_blocked(server: &Server) {
    while !server.raw(&["INFO", "clients"]).text().contains("blocked_clients:1") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_blocked_reader_holds_back_no_other_command() {
    let server = Server::start().await;
    let entry = held(&server, 1).await;
    let other = server.streams.reader(0, STAGE, "b").await.unwrap();
    let read = tokio::spawn(async move { other.read_any(1, LONG).await });
    until_blocked(&server).await;
    assert_eq!(settle(&server, &entry, &Action::Done(vec![])).await, [Answer::Done]);
    server.streams.ping().await.unwrap();
    assert!(!read.is_finished(), "the commands did not wait for the reader");
    assert!(read.await.unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_deleted_under_a_blocked_reader_is_a_missing_group() {
    let server = Server::start().await;
    let reader = server.streams.reader(0, STAGE, "a").await.unwrap();
    let read = tokio::spawn(async move { (reader.read_any(1, LONG).await, reader) });
    until_blocked(&server).await;
    server.raw(&["DEL", &key(&server, Lane::Bulk)]);
    let (answer, reader) = read.await.unwrap();
    assert!(matches!(answer, Err(Error::NoGroup)), "{answer:?}");
    // What was added before the group is made again is read.
    add(&server, Lane::Bulk, 1).await;
    reader.make_groups().await.unwrap();
    assert_eq!(reader.read_any(1, LONG).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_added_before_its_group_is_read() {
    let server = Server::start().await;
    add(&server, Lane::Background, 3).await;
    let reader = server.streams.reader(0, STAGE, "a").await.unwrap();
    assert_eq!(reader.read_any(10, LONG).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_read_gives_at_most_so_many_of_each_lane() {
    let server = Server::start().await;
    for lane in Lane::ALL {
        add(&server, lane, 3).await;
    }
    let reader = server.streams.reader(0, STAGE, "a").await.unwrap();
    assert_eq!(reader.read_any(1, LONG).await.unwrap().len(), 3, "one of each");
    assert_eq!(reader.read_lanes([2, 0, 1]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_entry_deleted_by_hand_leaves_the_pending_list_and_is_given_to_nobody() {
    let server = Server::start().await;
    let entries = held(&server, 3).await;
    settle(&server, &entries[2..], &Action::HandBack(0)).await;
    for entry in [&entries[0], &entries[2]] {
        server.raw(&["XDEL", &key(&server, Lane::Interactive), &entry.id]);
    }
    assert!(server.streams.take_due(0, STAGE, "b", 10).await.unwrap().is_empty());
    let taken = server.streams.take_from(0, STAGE, "b", 10, &["a".to_owned()]).await.unwrap();
    assert_eq!(taken.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&entries[1].id]);
    assert_eq!((figures(&server).await.pending, figures(&server).await.backlog), (1, 1));
}

#[tokio::test]
async fn a_due_entry_is_found_behind_many_that_are_not() {
    let server = Server::start().await;
    let entries = held(&server, 300).await;
    settle(&server, &entries[..299], &Action::Retry(DelayClass::OneHour, 1)).await;
    settle(&server, &entries[299..], &Action::Retry(DelayClass::OneSecond, 1)).await;
    let due = loop {
        let due = server.streams.take_due(0, STAGE, "b", 5).await.unwrap();
        if !due.is_empty() {
            break due;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((due.len(), &due[0].id), (1, &entries[299].id));
}

#[tokio::test]
async fn the_tail_of_a_dead_consumer_is_reached_behind_its_head() {
    let server = Server::start().await;
    let entries = held(&server, 50).await;
    let dead = ["a".to_owned()];
    let mut taken = BTreeSet::new();
    // What was taken is held on: the next call has to go past it.
    for _ in 0..10 {
        let more = server.streams.take_from(0, STAGE, "b", 5, &dead).await.unwrap();
        taken.extend(more.into_iter().map(|entry| entry.id));
    }
    assert_eq!(taken, entries.into_iter().map(|entry| entry.id).collect());
}

#[tokio::test]
async fn a_work_stream_is_never_trimmed() {
    let server = Server::start().await;
    add(&server, Lane::Bulk, 1_000).await;
    assert_eq!(server.len(&key(&server, Lane::Bulk)), 1_000);
    let entry = held(&server, 1).await;
    let next = Target::Work(StageName::Embed, Lane::Bulk);
    for _ in 0..20 {
        let outputs = vec![(next, Bytes::from_static(b"output")); 60];
        assert_eq!(settle(&server, &entry, &Action::Emit(outputs)).await, [Answer::Done]);
    }
    assert_eq!(server.len(&server.streams.keys().work(0, StageName::Embed, Lane::Bulk)), 1_200);
}

#[tokio::test]
async fn the_backlog_is_known_where_the_server_does_not_know_its_lag() {
    let server = Server::start().await;
    let entries = held(&server, 2).await;
    add(&server, Lane::Interactive, 3).await;
    let key = key(&server, Lane::Interactive);
    let last = server.raw(&["XREVRANGE", &key, "+", "-", "COUNT", "2"]).list()[1].list()[0].text().to_owned();
    server.raw(&["XDEL", &key, &last]);
    let figures = figures(&server).await;
    assert_eq!((figures.backlog, figures.pending, figures.conservation_error), (4, 2, 0), "{figures:?}");
    assert!(figures.lag.is_none_or(|lag| lag == 2), "unknown or right, never another number: {figures:?}");
    assert_eq!(settle(&server, &entries, &Action::Done(vec![])).await, [Answer::Done, Answer::Done]);
}

#[tokio::test]
async fn an_output_refused_after_the_acknowledgement_puts_the_input_back() {
    let server = Server::start().await;
    let entries = held(&server, 2).await;
    // A stream at its last possible id takes no entry, and nothing tells before the XADD.
    let full = server.streams.keys().work(0, StageName::Embed, Lane::Bulk);
    server.raw(&["XADD", &full, "18446744073709551615-18446744073709551615", "e", "the last"]);
    let [bulk, interactive] =
        [Lane::Bulk, Lane::Interactive].map(|lane| Target::Work(StageName::Embed, lane));
    let both = vec![(interactive, Bytes::from_static(b"one")), (bulk, Bytes::from_static(b"two"))];
    let settlements = [
        Settlement::of(&entries[0], "", Action::Done(both)),
        Settlement::of(&entries[1], "", Action::Done(vec![(interactive, Bytes::from_static(b"other"))])),
    ];
    let answers = server.streams.handoff(0, STAGE, "a", &settlements).await.unwrap();
    assert!(matches!(&answers[0], Answer::Refused(_)) && answers[1] == Answer::Done, "{answers:?}");
    let next = server.streams.keys().work(0, StageName::Embed, Lane::Interactive);
    assert_eq!(server.len(&next), 1, "its other output is taken back");
    let sizes = server.streams.keys().sizes(0);
    assert_eq!(server.raw(&["HGET", &sizes, &next]).text(), "5");
    let figures = figures(&server).await;
    assert_eq!((figures.backlog, figures.pending, figures.bytes), (1, 1, entries[0].body.len() as u64));
    // It is still this delivery's.
    assert_eq!(settle(&server, &entries[..1], &Action::Done(vec![])).await, [Answer::Done]);
}

#[tokio::test]
async fn what_is_done_leaves_no_key_that_stays() {
    let server = Server::start().await;
    let entries = held(&server, 100).await;
    let letter = vec![(Target::Dead, Bytes::from_static(b"letter"))];
    settle(&server, &entries[..50], &Action::Done(letter)).await;
    settle(&server, &entries[50..], &Action::Done(vec![])).await;
    let letters = server.streams.dead_letters(0, 100).await.unwrap();
    let letters: Vec<_> = letters.into_iter().map(|letter| letter.stream_id).collect();
    server.streams.remove_dead(0, &letters).await.unwrap();
    let mut lasting = BTreeSet::new();
    for name in server.raw(&["KEYS", "*"]).list() {
        if server.raw(&["TTL", name.text()]).int() == -1 {
            lasting.insert(name.text().to_owned());
        }
    }
    let keys = server.streams.keys();
    let expected: BTreeSet<_> =
        keys.lanes(0, STAGE).into_iter().chain([keys.dead(0), keys.groups_made(0)]).collect();
    assert_eq!(lasting, expected, "empty streams and a counter; markers of releases go with their time");
    assert!(lasting.iter().filter(|name| **name != keys.groups_made(0)).all(|name| server.len(name) == 0));
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_any_more_is_delivered_all_the_same_and_found() {
    let server = Server::start().await;
    let reader = Arc::new(server.streams.reader(0, STAGE, "a").await.unwrap());
    let given_up = Arc::clone(&reader);
    let read = tokio::spawn(async move { given_up.read_any(1, LONG).await });
    until_blocked(&server).await;
    read.abort();
    assert!(read.await.unwrap_err().is_cancelled());
    add(&server, Lane::Interactive, 1).await;
    let own = reader.own_pending().await.unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(reader.recover(own[0].0, &[own[0].1.clone()]).await.unwrap()[0].deliveries, 1);
}

#[tokio::test]
async fn no_two_consumers_have_a_name_in_common() {
    let names: BTreeSet<String> = (0..100).map(|_| consumer_name()).collect();
    assert_eq!(names.len(), 100);
    let process = format!("-{}-", std::process::id());
    assert!(names.iter().all(|name| name.contains(&process)), "{names:?}");
}
