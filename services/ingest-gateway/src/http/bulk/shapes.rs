//! The lines of the answer to a request with many documents.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    http::{
        problem::{Problem, ProblemBody, fitting},
        shapes::DocumentState,
    },
    unpack::Skipped,
};

/// The most of a name that an answer repeats, in bytes of JSON: its end, where the file's own name is.
const LONGEST_NAME: usize = 600;

/// Where an item stood in the request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A line, from 1, empty ones counted.
    Line(u64),
    /// An entry of an archive, from 1.
    Entry(u64),
}

/// What became of one item, a line of the answer. It has either `id`, or `problem`, or `skipped`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ItemBody {
    /// Which line of the request, from 1, empty ones counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// Which entry of the archive, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<u64>,
    /// The file's name, or its path in the archive, as far as it is known; of one that is very long the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The document that was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    /// Its version, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// Where it is on its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DocumentState>)]
    state: Option<&'static str>,
    /// The same bytes with the same settings were there: this is that document.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    /// Why it was not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
    /// After how many seconds to send it again, where that may help.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
    /// Why it was left out: `symlink`, `hard_link`, `special` (a device or a pipe), or `system_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    skipped: Option<Skipped>,
}

impl ItemBody {
    fn at(place: Place, name: Option<String>) -> Self {
        let (line, entry) = match place {
            Place::Line(line) => (Some(line), None),
            Place::Entry(entry) => (None, Some(entry)),
        };
        Self {
            line,
            entry,
            name: name.map(end_of),
            id: None,
            version: None,
            state: None,
            duplicate: None,
            problem: None,
            retry_after_seconds: None,
            skipped: None,
        }
    }

    pub(super) fn accepted(place: Place, name: String, accepted: &riacho_store::Accepted) -> Self {
        Self {
            id: Some(accepted.document.0),
            version: Some(accepted.version),
            state: Some(accepted.state.as_str()),
            duplicate: Some(accepted.duplicate),
            ..Self::at(place, Some(name))
        }
    }

    pub(super) fn refused(place: Place, name: Option<String>, problem: Problem) -> Self {
        Self {
            retry_after_seconds: problem.retry_after_seconds(),
            problem: Some(problem.one_of_many().into()),
            ..Self::at(place, name)
        }
    }

    pub(super) fn skipped(place: Place, name: String, why: Skipped) -> Self {
        Self { skipped: Some(why), ..Self::at(place, Some(name)) }
    }
}

/// The last line of the answer.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(super) struct SummaryBody {
    /// Lines before this one.
    items: u64,
    /// Documents and versions that are new.
    accepted: u64,
    /// Documents that were there.
    duplicates: u64,
    /// Items with a problem.
    refused: u64,
    /// Items that were left out.
    skipped: u64,
    /// Whether the request was read to its end.
    complete: bool,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
    /// After how many seconds to send the request again: it was not read to its end, or documents were refused, and later the
    /// same may go well. What was accepted is known then.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl SummaryBody {
    pub(super) fn add(&mut self, item: &ItemBody) {
        self.items += 1;
        self.retry_after_seconds = self.retry_after_seconds.max(item.retry_after_seconds);
        match item.duplicate {
            Some(false) => self.accepted += 1,
            Some(true) => self.duplicates += 1,
            None if item.problem.is_some() => self.refused += 1,
            None => self.skipped += 1,
        }
    }

    pub(super) fn end(&mut self, stopped: Option<Problem>) {
        self.complete = stopped.is_none();
        let after = stopped.as_ref().and_then(Problem::retry_after_seconds);
        self.retry_after_seconds = self.retry_after_seconds.max(after);
        self.problem = stopped.map(ProblemBody::from);
    }
}

/// A line of the answer: of an item, or the last one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)] // one at a time
pub(super) enum AnswerLine {
    /// An item, in the order of the request.
    Item(ItemBody),
    /// What became of the request.
    Summary {
        /// The counts.
        summary: SummaryBody,
    },
}

fn end_of(name: String) -> String {
    match fitting(name.chars().rev(), LONGEST_NAME) {
        all if all == name.len() => name,
        end => name[name.len() - end..].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is said of it in docs/bulk.md, for what an answer may take that waits.
    const LONGEST_LINE: usize = 2_048;

    #[test]
    fn a_line_is_bounded_whatever_it_is_about() {
        for piece in ["\u{1}", "\"", "\\", "a", "ã", "\u{1f600}"] {
            let long = piece.repeat(100_000);
            let wrong = [
                Problem::field(long.clone(), long.clone()),
                Problem::bad_request(long.clone()),
                Problem::conflict("external_id_repeated", long.clone()),
                Problem::archive("unsupported_compression", long.clone()),
                Problem::over_rate(&long, u64::MAX),
            ];
            for problem in wrong {
                let item = ItemBody::refused(Place::Entry(u64::MAX), Some(long.clone()), problem);
                let line = serde_json::to_string(&AnswerLine::Item(item)).unwrap();
                assert!((600..LONGEST_LINE).contains(&line.len()), "{} of {line}", line.len());
            }
        }
    }

    #[test]
    fn of_a_long_name_the_end_is_told() {
        let name = "x".repeat(1_000) + "/the-file.txt";
        let item = ItemBody::skipped(Place::Entry(1), name.clone(), Skipped::Symlink);
        let told = item.name.unwrap();
        assert!(told.len() == LONGEST_NAME && name.ends_with(&told), "{told}");
        assert_eq!(end_of("a/b.txt".to_owned()), "a/b.txt");
    }
}
