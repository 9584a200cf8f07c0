//! What was asked for and answered, and the ends that follow: the last command that was answered wins. One
//! whose answer never came may have had its effect or not, and both are right.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    client::{Answer, Reply},
    contents::{Content, Kind},
    producer::{self, Event},
};

/// The ends that a document may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ends {
    /// What the latest version's content says: ready, or failed with its reason.
    pub(crate) by_content: bool,
    pub(crate) cancelled: bool,
    pub(crate) deleted: bool,
}

impl Ends {
    pub(crate) const BY_CONTENT: Ends = Ends { by_content: true, cancelled: false, deleted: false };
    pub(crate) const CANCELLED: Ends = Ends { by_content: false, cancelled: true, deleted: false };
    pub(crate) const DELETED: Ends = Ends { by_content: false, cancelled: false, deleted: true };

    fn or(self, other: Ends) -> Ends {
        Ends {
            by_content: self.by_content || other.by_content,
            cancelled: self.cancelled || other.cancelled,
            deleted: self.deleted || other.deleted,
        }
    }
}

/// A document that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// What each version was given.
    pub(crate) versions: BTreeMap<u32, Content>,
    pub(crate) ends: Ends,
    /// What a command may still do that no answer came for.
    late: Ends,
    /// How often a retry was answered, or may have had its effect, by version.
    pub(crate) retries: BTreeMap<u32, u32>,
    /// What happened, for people.
    pub(crate) story: Vec<String>,
}

impl Record {
    /// All ends that are right.
    pub(crate) fn right_ends(&self) -> Ends {
        self.ends.or(self.late)
    }

    /// Whether it ended each process that ran it.
    pub(crate) fn is_deadly(&self) -> bool {
        self.versions.values().any(|content| content.kind == Kind::Deadly)
    }

    pub(crate) fn latest(&self) -> u32 {
        self.versions.keys().next_back().copied().unwrap_or(0)
    }

    fn tell(&mut self, seconds: f64, what: impl std::fmt::Display) {
        self.story.push(format!("{seconds:8.3} s  {what}"));
    }
}

/// An upload without an answer: its row, if there is one, is owed all the same.
#[derive(Debug, Clone)]
pub(crate) struct Unanswered {
    pub(crate) key: String,
    pub(crate) content: Content,
}

/// A producer's event, and what it was answered.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) event: Event,
    pub(crate) answer: Option<producer::Answer>,
}

/// Everything that is known from answers.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) documents: BTreeMap<Uuid, Record>,
    pub(crate) unanswered: Vec<Unanswered>,
    /// Every event that was published, by its id.
    pub(crate) events: BTreeMap<String, Published>,
    /// Answers that should not have been given.
    pub(crate) violations: Vec<(Option<Uuid>, String)>,
    /// How many uploads were sent, new versions among them.
    pub(crate) uploads: usize,
    /// What was never answered, and when it was given up.
    pub(crate) silent: Vec<(f64, String)>,
    /// How many answers of each kind there were.
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Oracle {
    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    /// How many uploads were accepted.
    pub(crate) fn given(&self) -> usize {
        let count = |what: &str| self.counts.get(what).copied().unwrap_or(0);
        usize::try_from(count("202") + count("202, known bytes")).unwrap_or(usize::MAX)
    }

    fn wrong(&mut self, document: Option<Uuid>, what: String) {
        self.violations.push((document, what));
    }

    /// An upload was answered, or not. The document that it became, if that is known.
    pub(crate) fn uploaded(&mut self, at: f64, key: &str, content: &Content, reply: &Reply) -> Option<Uuid> {
        self.uploads += 1;
        let Reply::Answered(answer) = reply else {
            self.count("upload without an answer");
            self.silent.push((at, format!("upload {key}")));
            self.unanswered.push(Unanswered { key: key.to_owned(), content: content.clone() });
            return None;
        };
        let accepted = (answer.status == 202).then(|| read(answer)).flatten();
        let Some((id, version, is_duplicate)) = accepted else {
            self.wrong(None, format!("an upload was answered {}: {}", answer.status, answer.body));
            return None;
        };
        self.count(if is_duplicate { "202, known bytes" } else { "202" });
        if is_duplicate {
            self.known_bytes(at, id, version, content);
        } else {
            self.new_version(at, id, version, content);
        }
        Some(id)
    }

    /// A producer's event was answered, or not. The document that it became, if that is known.
    pub(crate) fn published(
        &mut self,
        at: f64,
        event: Event,
        answer: Option<producer::Answer>,
    ) -> Option<Uuid> {
        let right = event.right_code();
        let (document, what) = match &answer {
            Some(producer::Answer::Accepted(id, version)) if right.is_none() => {
                self.new_version(at, *id, *version, &event.content);
                (Some(*id), "event accepted".to_owned())
            }
            Some(producer::Answer::Rejected(code)) if Some(code.as_str()) == right => {
                (None, format!("event rejected: {code}"))
            }
            None => {
                self.silent.push((at, format!("event {}", event.id)));
                (None, "event without an answer".to_owned())
            }
            Some(other) => {
                self.wrong(None, format!("event {} was answered {other:?}, right was {right:?}", event.id));
                (None, "event answered wrongly".to_owned())
            }
        };
        self.count(&what);
        self.events.insert(event.id.clone(), Published { event, answer });
        document
    }

    pub(crate) fn new_version(&mut self, at: f64, id: Uuid, version: u32, content: &Content) {
        let record = self.documents.entry(id).or_insert_with(|| Record {
            versions: BTreeMap::new(),
            ends: Ends::default(),
            late: Ends::default(),
            retries: BTreeMap::new(),
            story: Vec::new(),
        });
        let latest = record.latest();
        record
            .tell(at, format_args!("version {version} accepted: {}, {:?}", content.filename(), content.kind));
        record.versions.insert(version, content.clone());
        record.ends = Ends::BY_CONTENT;
        if version <= latest {
            self.wrong(Some(id), format!("version {version} was accepted after version {latest}"));
        }
    }

    /// The answer was a document that has these bytes: it must be one that stands behind it.
    fn known_bytes(&mut self, at: f64, id: Uuid, version: u32, content: &Content) {
        let Some(record) = self.documents.get_mut(&id) else {
            let known = self.unanswered.iter().any(|upload| upload.content == *content);
            if !known {
                self.wrong(Some(id), "an upload was answered from a document that nobody knows".to_owned());
            }
            return;
        };
        record.tell(at, format_args!("version {version} answered for the same bytes"));
        let same = record.versions.get(&version) == Some(content) && record.latest() == version;
        let stands = record.right_ends().by_content;
        if !same {
            self.wrong(Some(id), format!("version {version} has not the bytes that it was answered for"));
        } else if !stands {
            self.wrong(
                Some(id),
                "an upload was answered from a document that was ended by a command".to_owned(),
            );
        }
    }

    pub(crate) fn cancelled(&mut self, at: f64, id: Uuid, reply: &Reply) {
        self.may_come_late(at, id, reply, Ends::CANCELLED);
        let (ends, text) = match reply {
            Reply::Answered(answer) if answer.status == 200 => (Ends::CANCELLED, "cancelled"),
            Reply::Answered(answer) if answer.status == 409 => {
                let ends = self.ends(id);
                (if answer.is_uncertain() { ends.or(Ends::CANCELLED) } else { ends }, "nothing to cancel")
            }
            Reply::Silent { .. } => (self.ends(id).or(Ends::CANCELLED), "cancelled, perhaps"),
            Reply::Answered(answer) => return self.not_so(at, id, "cancel", answer),
        };
        self.settle(at, id, ends, text);
    }

    pub(crate) fn retried(&mut self, at: f64, id: Uuid, reply: &Reply) {
        self.may_come_late(at, id, reply, Ends::BY_CONTENT);
        let (ends, text, again) = match reply {
            Reply::Answered(answer) if answer.status == 202 => {
                (Ends::BY_CONTENT, "retried", 1 + answer.unanswered)
            }
            Reply::Answered(answer) if answer.status == 409 => {
                let ends = self.ends(id);
                let ends = if answer.is_uncertain() { ends.or(Ends::BY_CONTENT) } else { ends };
                (ends, "nothing to retry", answer.unanswered)
            }
            Reply::Silent { unanswered } => {
                (self.ends(id).or(Ends::BY_CONTENT), "retried, perhaps", *unanswered)
            }
            Reply::Answered(answer) => return self.not_so(at, id, "retry", answer),
        };
        if let Some(record) = self.documents.get_mut(&id) {
            *record.retries.entry(record.latest()).or_default() += again;
        }
        self.settle(at, id, ends, text);
    }

    pub(crate) fn deleted(&mut self, at: f64, id: Uuid, reply: &Reply) {
        self.may_come_late(at, id, reply, Ends::DELETED);
        let (ends, text) = match reply {
            Reply::Answered(answer) if answer.status == 204 => (Ends::DELETED, "deleted"),
            Reply::Answered(answer) if answer.status == 404 && answer.is_uncertain() => {
                (Ends::DELETED, "deleted before")
            }
            Reply::Silent { .. } => (self.ends(id).or(Ends::DELETED), "deleted, perhaps"),
            Reply::Answered(answer) => return self.not_so(at, id, "delete", answer),
        };
        self.settle(at, id, ends, text);
    }

    fn may_come_late(&mut self, at: f64, id: Uuid, reply: &Reply, ends: Ends) {
        if matches!(reply, Reply::Silent { .. }) {
            self.silent.push((at, format!("a command for {id}")));
        }
        let late = match reply {
            Reply::Answered(answer) => answer.may_come_late,
            Reply::Silent { .. } => true,
        };
        if let (true, Some(record)) = (late, self.documents.get_mut(&id)) {
            record.late = record.late.or(ends);
        }
    }

    fn ends(&self, id: Uuid) -> Ends {
        self.documents.get(&id).map(|record| record.ends).unwrap_or_default()
    }

    fn settle(&mut self, at: f64, id: Uuid, ends: Ends, text: &str) {
        self.count(text);
        if let Some(record) = self.documents.get_mut(&id) {
            record.ends = ends;
            record.tell(at, text);
        }
    }

    /// A command was refused. That is right for a document which was deleted, perhaps.
    fn not_so(&mut self, at: f64, id: Uuid, command: &str, answer: &Answer) {
        let may_be_gone =
            answer.status == 404 && self.documents.get(&id).is_some_and(|record| record.right_ends().deleted);
        self.settle(at, id, self.ends(id), &format!("{command}: {}", answer.status.as_u16()));
        if !may_be_gone {
            self.wrong(Some(id), format!("{command} was answered {}: {}", answer.status, answer.body));
        }
    }
}

/// Document, version, and whether its bytes were known.
fn read(answer: &Answer) -> Option<(Uuid, u32, bool)> {
    let body = &answer.body;
    let version = u32::try_from(body["version"].as_u64()?).ok()?;
    Some((body["id"].as_str()?.parse().ok()?, version, body["duplicate"].as_bool()?))
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::contents::Format;

    const ID: Uuid = Uuid::from_u128(5);

    fn content(seed: u64) -> Content {
        Content { seed, kind: Kind::Good, format: Format::Text, paragraphs: 1 }
    }

    fn reply(status: u16, is_uncertain: bool) -> Reply {
        let body = json!({"id": ID, "version": 1, "duplicate": false});
        let status = StatusCode::from_u16(status).unwrap();
        Reply::Answered(Answer { status, body, unanswered: u32::from(is_uncertain), may_come_late: false })
    }

    fn oracle() -> Oracle {
        let mut oracle = Oracle::default();
        assert_eq!(oracle.uploaded(0.0, "key", &content(1), &reply(202, false)), Some(ID));
        oracle
    }

    #[test]
    fn the_last_command_that_was_answered_wins() {
        let mut oracle = oracle();
        oracle.cancelled(1.0, ID, &reply(200, false));
        assert_eq!(oracle.ends(ID), Ends::CANCELLED);
        oracle.retried(2.0, ID, &reply(202, false));
        assert_eq!((oracle.ends(ID), oracle.documents[&ID].retries[&1]), (Ends::BY_CONTENT, 1));
        oracle.cancelled(3.0, ID, &reply(409, false));
        assert_eq!(oracle.ends(ID), Ends::BY_CONTENT);
        oracle.deleted(4.0, ID, &reply(204, false));
        assert_eq!(oracle.ends(ID), Ends::DELETED);
        assert_eq!(oracle.violations, []);
    }

    #[test]
    fn a_lost_answer_leaves_both_ends() {
        let mut oracle = oracle();
        oracle.cancelled(1.0, ID, &Reply::Silent { unanswered: 1 });
        assert_eq!(oracle.ends(ID), Ends { by_content: true, cancelled: true, deleted: false });
        oracle.cancelled(2.0, ID, &reply(409, true));
        assert!(oracle.ends(ID).cancelled && oracle.ends(ID).by_content);
        oracle.deleted(3.0, ID, &Reply::Silent { unanswered: 1 });
        assert!(oracle.ends(ID).deleted);
        oracle.retried(4.0, ID, &reply(404, false));
        assert_eq!(oracle.violations, [], "it may be gone");
    }

    #[test]
    fn answers_that_nothing_stands_behind_are_violations() {
        let mut first = oracle();
        first.retried(1.0, ID, &reply(404, false));
        assert_eq!(first.violations.len(), 1, "an accepted document is not unknown");
        let mut second = oracle();
        second.cancelled(1.0, ID, &reply(200, false));
        second.known_bytes(2.0, ID, 1, &content(1));
        second.known_bytes(2.0, ID, 1, &content(2));
        assert_eq!(second.violations.len(), 2);
        let mut third = oracle();
        third.uploaded(1.0, "key", &content(3), &reply(422, true));
        assert_eq!(third.violations.len(), 1);
    }
}
