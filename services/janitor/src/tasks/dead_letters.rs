//! Moves dead letters from the streams to PostgreSQL, where their documents fail.

use chrono::{DateTime, Utc};
use riacho_domain::ReasonCode;
use riacho_proto::{
    Message,
    v1::{DeadLetter, Envelope, envelope::Payload},
};
use riacho_store::NewDeadLetter;
use riacho_streams::DeadEntry;

use super::each_partition;
use crate::{Error, job::Job, told};

/// A dead letter is up to a few hundred kilobytes.
const BATCH: usize = 32;

pub(crate) async fn run(job: &Job<'_>) -> Result<(), Error> {
    each_partition(job, async |partition| {
        if job.dry_run {
            job.add("waiting", job.janitor.streams.dead_letter_count(partition).await?);
            return Ok(());
        }
        move_all(job, partition).await
    })
    .await
}

async fn move_all(job: &Job<'_>, partition: u16) -> Result<(), Error> {
    let (store, streams) = (&job.janitor.store, &job.janitor.streams);
    let stream = streams.keys().dead(partition);
    while job.goes_on() {
        let entries = streams.dead_letters(partition, BATCH).await?;
        let found = entries.len();
        // First the row, then the removal: a crash between them moves the letter once more, onto
        // the same row.
        let mut moved = Vec::with_capacity(found);
        for entry in entries {
            let id = entry.stream_id.clone();
            let (letter, traceparent) = letter_of(entry, &stream);
            let _span = told::dead_letter(&letter, &traceparent);
            let added = store.add_dead_letter(&letter).await?;
            // A version that was cancelled, replaced or released again meanwhile has not failed.
            if added.has_failed {
                told::failed_by_letter(&letter);
            }
            job.add("moved", u64::from(added.is_new));
            moved.push(id);
        }
        streams.remove_dead(partition, &moved).await?;
        if found < BATCH {
            break;
        }
    }
    Ok(())
}

/// The letter, and where it stands in a trace.
fn letter_of(entry: DeadEntry, stream: &str) -> (NewDeadLetter, String) {
    let Ok(envelope) = Envelope::decode(entry.envelope.clone()) else {
        return (unreadable(entry, stream, "the dead letter's envelope cannot be decoded"), String::new());
    };
    let Some(Payload::DeadLetter(letter)) = envelope.payload else {
        return (unreadable(entry, stream, "the entry is no dead letter"), String::new());
    };
    let DeadLetter { stage, stream, entry_id, reason_code, message, attempts, trace_id, original, time } =
        letter;
    let occurred_at =
        time.and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?));
    // The address is of the original's making and may be anything. One that names no document
    // leaves a letter without one.
    let letter = NewDeadLetter {
        tenant: envelope.tenant.parse().ok(),
        document: envelope.document.parse().ok(),
        version: (envelope.version > 0).then_some(envelope.version),
        release: envelope.release.parse().ok(),
        stage,
        stream,
        entry_id,
        reason_code,
        message,
        attempts,
        trace_id,
        original: original.to_vec(),
        occurred_at: occurred_at.unwrap_or_else(Utc::now),
    };
    (letter, envelope.traceparent)
}

fn unreadable(entry: DeadEntry, stream: &str, message: &str) -> NewDeadLetter {
    NewDeadLetter {
        tenant: None,
        document: None,
        version: None,
        release: None,
        stage: "unknown".to_owned(),
        stream: stream.to_owned(),
        entry_id: entry.stream_id,
        reason_code: ReasonCode::Undecodable.as_str().to_owned(),
        message: message.to_owned(),
        attempts: 0,
        trace_id: String::new(),
        original: entry.envelope.to_vec(),
        occurred_at: Utc::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dead_letter_is_kept_with_its_bytes() {
        for bytes in [&b"\xff\xff"[..], &[]] {
            let entry = DeadEntry { stream_id: "1-0".into(), envelope: bytes.to_vec().into() };
            let (letter, _) = letter_of(entry, "riacho:{0}:dead");
            assert_eq!((letter.original.as_slice(), letter.reason_code.as_str()), (bytes, "undecodable"));
        }
    }

    #[test]
    fn an_address_that_names_nothing_is_left_out() {
        let dead = DeadLetter { message: "gone".into(), ..DeadLetter::default() };
        let envelope = Envelope {
            tenant: "No Tenant".into(),
            document: "x".into(),
            payload: Some(Payload::DeadLetter(dead)),
            ..Envelope::default()
        };
        let entry = DeadEntry { stream_id: "1-0".into(), envelope: envelope.encode_to_vec().into() };
        let (letter, _) = letter_of(entry, "riacho:{0}:dead");
        assert!(letter.tenant.is_none() && letter.document.is_none() && letter.version.is_none());
        assert_eq!(letter.message, "gone");
    }
}
