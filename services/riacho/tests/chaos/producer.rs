//! A producer: it puts upload events straight onto the intake, again until it sees the answer, sometimes twice.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use riacho_domain::TenantId;
use riacho_local::testing::{self, Reply};
use riacho_proto::{
    Message,
    v1::{self, IntakeStatus, document_uploaded::Body, envelope::Payload},
};
use riacho_streams::Keys;
use tokio::{task::block_in_place, time::sleep};
use uuid::Uuid;

use crate::{checks::Wrong, cluster::Cluster, contents::Content, oracle::Oracle, schedule::Flaw};

const SOURCE: &str = "chaos";
/// After how long without an answer an event is sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long it is tried. Whoever has no answer by then does not know what became of it.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(100);
/// Among so many of the latest answers one's own is looked for; more than all producers wait for at once.
const LATEST: &str = "200";

/// The latest answers in hexadecimal digits: a reply is read as text.
const RESULTS: &str = "local found = {}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[1])) do
  found[#found + 1] = string.gsub(entry[2][2], '.', function(byte) return string.format('%02x', string.byte(byte)) end)
end
return found";

/// An event, before it is written out.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) content: Content,
    pub(crate) external_id: String,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) twice: bool,
}

/// What an event was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted(Uuid, u32),
    /// With a code.
    Rejected(String),
}

/// The answers of one event.
type Answers = BTreeMap<String, Vec<Answer>>;

/// Writes to Redis without a proxy, as producers are no part of the deployment.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    socket: PathBuf,
    intake: String,
    results: String,
}

impl Event {
    /// The code that it is rejected with; none where it is accepted.
    pub(crate) fn right_code(&self) -> Option<&'static str> {
        Some(match self.flaw? {
            Flaw::Tenant => "wrong_tenant",
            Flaw::Filename => "invalid_field",
            Flaw::Hash => "hash_mismatch",
            Flaw::Bytes => "undecodable",
        })
    }

    /// What stands in the entry.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        if self.flaw == Some(Flaw::Bytes) {
            return format!("\u{7}{} is no event", self.id).into_bytes();
        }
        let is_flaw = |flaw| self.flaw == Some(flaw);
        let upload = v1::DocumentUploaded {
            filename: if is_flaw(Flaw::Filename) { String::new() } else { self.content.filename() },
            body: Some(Body::Content(self.content.bytes().into())),
            external_id: self.external_id.clone(),
            sha256: if is_flaw(Flaw::Hash) { Bytes::from(vec![7; 32]) } else { Bytes::new() },
            ..v1::DocumentUploaded::default()
        };
        let envelope = v1::Envelope {
            envelope_version: 1,
            id: self.id.clone(),
            source: SOURCE.to_owned(),
            tenant: if is_flaw(Flaw::Tenant) { "another".to_owned() } else { String::new() },
            payload: Some(Payload::DocumentUploaded(upload)),
            ..v1::Envelope::default()
        };
        envelope.encode_to_vec()
    }
}

impl Producer {
    pub(crate) fn new(cluster: &Cluster) -> Producer {
        let (keys, tenant) = (Keys::new("riacho"), "default".parse::<TenantId>().unwrap());
        let (intake, results) = (keys.intake(&tenant), keys.intake_results(&tenant));
        Producer { socket: cluster.redis.socket(), intake, results }
    }

    /// Sends an event until it is answered; `None` when no answer came.
    pub(crate) async fn publish(&self, event: &Event) -> Option<Answer> {
        let (begun, bytes) = (Instant::now(), event.bytes());
        let (mut entries, mut sent_at) = (Vec::new(), None::<Instant>);
        while begun.elapsed() < PATIENCE {
            if sent_at.is_none_or(|at| at.elapsed() >= AGAIN) {
                let copies = if event.twice && sent_at.is_none() { 2 } else { 1 };
                entries.extend((0..copies).filter_map(|_| self.send(&bytes)));
                sent_at = Some(Instant::now());
            }
            let found = self.results(LATEST).unwrap_or_default();
            let is_its = |result: &&v1::IntakeResult| match event.flaw {
                // Nobody could read who sent it.
                Some(Flaw::Bytes) => entries.contains(&result.entry_id),
                _ => result.event_source == SOURCE && result.event_id == event.id,
            };
            if let Some(result) = found.iter().find(is_its) {
                return Some(answer_of(result));
            }
            sleep(PAUSE).await;
        }
        None
    }

    fn send(&self, bytes: &[u8]) -> Option<String> {
        let args: [&[u8]; 5] = [b"XADD", self.intake.as_bytes(), b"*", b"e", bytes];
        match block_in_place(|| testing::try_command(&self.socket, &args)) {
            Ok(Reply::Text(id)) => Some(id),
            _ => None,
        }
    }

    /// The latest answers.
    fn results(&self, count: &str) -> Option<Vec<v1::IntakeResult>> {
        let args = ["EVAL", RESULTS, "1", &self.results, count];
        let Ok(Reply::List(found)) = block_in_place(|| testing::try_command(&self.socket, &args)) else {
            return None;
        };
        Some(found.iter().filter_map(|text| result(text.text())).collect())
    }

    /// What is wrong with the answers and the rows of all events.
    pub(crate) fn check(&self, cluster: &Cluster, oracle: &Oracle) -> Result<Wrong, String> {
        let mut wrong = Wrong::new();
        let rows = rows(cluster)?;
        let mut answers = rows.clone();
        for id in answers.keys().filter(|id| !oracle.events.contains_key(*id)) {
            wrong.push((None, format!("nobody published event {id}")));
        }
        for result in self.results("100000").ok_or("no results")? {
            if result.event_source == SOURCE {
                answers.entry(result.event_id.clone()).or_default().push(answer_of(&result));
            }
        }
        for (id, sent) in &oracle.events {
            let seen: Vec<&Answer> = answers.get(id).into_iter().flatten().chain(&sent.answer).collect();
            if seen.windows(2).any(|pair| pair[0] != pair[1]) {
                wrong.push((None, format!("event {id} was answered in different ways: {seen:?}")));
            }
            if sent.answer.is_some() && sent.event.flaw.is_none() && !rows.contains_key(id) {
                wrong.push((None, format!("event {id} was answered and has no row")));
            }
        }
        Ok(wrong)
    }
}

fn result(hex: &str) -> Option<v1::IntakeResult> {
    let digits = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map_while(digits).collect();
    match v1::Envelope::decode(bytes.as_slice()).ok()?.payload? {
        Payload::IntakeResult(result) => Some(result),
        _ => None,
    }
}

fn answer_of(result: &v1::IntakeResult) -> Answer {
    match (result.status(), result.document.parse()) {
        (IntakeStatus::Accepted, Ok(document)) => Answer::Accepted(document, result.version),
        _ => Answer::Rejected(result.error_code.clone()),
    }
}

/// What the rows of this producer's events say, by the events' ids.
pub(crate) fn rows(cluster: &Cluster) -> Result<Answers, String> {
    let sql = format!(
        "SELECT event_id, document_id, version, error_code FROM intake_events WHERE source = '{SOURCE}'"
    );
    let mut found = Answers::new();
    for row in cluster.sql(&sql)? {
        let text = |column: usize| row[column].clone().unwrap_or_default();
        let answer = match (text(1).parse(), text(2).parse()) {
            (Ok(document), Ok(version)) => Answer::Accepted(document, version),
            _ => Answer::Rejected(text(3)),
        };
        found.entry(text(0)).or_default().push(answer);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::{Format, Kind};

    #[test]
    fn an_event_is_what_a_producer_sends_and_one_without_sense_is_none() {
        let content = Content { seed: 3, kind: Kind::Good, format: Format::Text, paragraphs: 1 };
        let event = Event { id: "e".into(), content, external_id: String::new(), flaw: None, twice: false };
        let envelope = v1::Envelope::decode(event.bytes().as_slice()).unwrap();
        assert_eq!((envelope.id.as_str(), envelope.source.as_str()), ("e", SOURCE));
        assert!(v1::Envelope::decode(Event { flaw: Some(Flaw::Bytes), ..event }.bytes().as_slice()).is_err());
    }
}
