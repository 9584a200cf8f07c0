//! What an extraction yields: text with pages and headings, or a typed reason why there is none.

use riacho_domain::ReasonCode;
use serde::{Deserialize, Serialize};

/// The most reasons for which pages of one document are missing.
const MOST_REASONS: usize = 64;

/// The text of a document with its structure. All offsets are bytes of `text`, ends exclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The text, Markdown-like: line ends are `\n`, and no control character but tab occurs.
    pub text: String,
    /// What else is known of it.
    pub outline: Outline,
    /// The files that were attached to it: documents of their own.
    pub attachments: Vec<Attachment>,
    /// Why it has no text, where it has attachments all the same.
    pub unreadable: Option<Failure>,
}

/// A file that was attached to a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub filename: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {} bytes", self.filename, self.bytes.len())
    }
}

/// The structure of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outline {
    /// The pages (slides of a presentation) in order; empty where the format has none.
    pub pages: Vec<PageSpan>,
    /// The headings in order.
    pub headings: Vec<Heading>,
    /// The language, ISO 639-1, where it is certain enough.
    pub language: Option<String>,
    /// Its lines say something each: they stay whole, and chunks end at blank lines where they can.
    pub by_lines: bool,
    /// The title that the document itself states.
    pub title: Option<String>,
    /// The media type, told from the bytes.
    pub detected_type: String,
    /// The character encoding the bytes were decoded from, for text formats.
    pub encoding: Option<String>,
    /// How certain that encoding is.
    pub encoding_confidence: Option<Confidence>,
    /// The pages whose text is not there, and why.
    pub missing: Vec<Missing>,
}

/// How certain it is that a text was written in the encoding that it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// A byte order mark says so, or the bytes are valid UTF-8.
    Certain,
    /// The document says so, and its bytes fit.
    Declared,
    /// The statistics of the whole file say so.
    Likely,
    /// The statistics prefer it, without much to go by.
    Doubtful,
}

impl Confidence {
    /// The word for it in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Confidence::Certain => "certain",
            Confidence::Declared => "declared",
            Confidence::Likely => "likely",
            Confidence::Doubtful => "doubtful",
        }
    }
}

/// Pages whose text is not there for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The reason.
    #[serde(flatten)]
    pub failure: Failure,
    /// The pages, first and last of each row of them, ascending.
    pub pages: Vec<(u32, u32)>,
}

impl Missing {
    /// Adds a page to those that are missing. Pages come in ascending order. Of very many reasons the last ones are
    /// put together.
    pub fn add(all: &mut Vec<Missing>, page: u32, failure: Failure) {
        let at = match all.iter().position(|missing| missing.failure == failure) {
            Some(at) => at,
            None if all.len() >= MOST_REASONS => MOST_REASONS - 1,
            None => {
                let is_last = all.len() + 1 == MOST_REASONS;
                let failure = if is_last {
                    Failure::new(failure.reason, "for one of many other reasons")
                } else {
                    failure
                };
                all.push(Missing { failure, pages: Vec::new() });
                all.len() - 1
            }
        };
        match all[at].pages.last_mut() {
            Some((_, last)) if *last + 1 == page => *last = page,
            _ => all[at].pages.push((page, page)),
        }
    }

    /// Why a document has no text: the reason for which most of its pages have none; nothing where none is missing.
    #[must_use]
    pub fn most(all: &[Missing]) -> Option<Failure> {
        all.iter().max_by_key(|missing| missing.count()).map(|most| most.failure.clone())
    }

    /// Whether the page is among them.
    #[must_use]
    pub fn has(&self, page: u32) -> bool {
        self.pages.iter().any(|(first, last)| (*first..=*last).contains(&page))
    }

    /// How many pages they are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.pages.iter().map(|(first, last)| last.saturating_sub(*first).saturating_add(1)).sum()
    }

    fn is_sound(&self) -> bool {
        let mut end = 0;
        self.pages.iter().all(|(first, last)| {
            let ordered = end < *first && first <= last && *last < u32::MAX;
            end = *last;
            ordered
        })
    }
}

/// Where a page stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageSpan {
    /// The page's number, from 1.
    pub number: u32,
    /// Where it begins.
    pub byte_start: usize,
    /// Where it ends.
    pub byte_end: usize,
}

/// A heading in the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heading {
    /// Its rank, from 1 for the outermost.
    pub level: u8,
    /// Where its line begins.
    pub byte_start: usize,
    /// Where its line ends.
    pub byte_end: usize,
    /// Its words, without markup.
    pub title: String,
}

/// Why a document has no text: a code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// The code.
    pub reason: ReasonCode,
    /// The sentence.
    pub message: String,
}

impl Failure {
    /// Makes a failure.
    #[must_use]
    pub fn new(reason: ReasonCode, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Extracted {
    /// Attachments of a message that has no text, for this reason.
    #[must_use]
    pub fn unreadable(failure: Failure, attachments: Vec<Attachment>) -> Self {
        Self { unreadable: Some(failure), attachments, ..Self::default() }
    }

    /// How many pages have no text for some reason.
    #[must_use]
    pub fn missing_pages(&self) -> u32 {
        self.outline.missing.iter().map(Missing::count).fold(0, u32::saturating_add)
    }

    /// Whether all offsets lie on characters of the text and in order, and the text is storable.
    ///
    /// A parser's process answers with what a hostile file may have put there, so the answer is
    /// checked before anybody slices by it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let at = |offset: usize| self.text.is_char_boundary(offset);
        let mut pages_end = 0;
        let pages = self.outline.pages.iter().all(|page| {
            let ordered = pages_end <= page.byte_start && page.byte_start <= page.byte_end;
            pages_end = page.byte_end;
            ordered && page.number > 0 && at(page.byte_start) && at(page.byte_end)
        });
        let mut headings_end = 0;
        let headings = self.outline.headings.iter().all(|heading| {
            let ordered = headings_end <= heading.byte_start && heading.byte_start < heading.byte_end;
            headings_end = heading.byte_end;
            ordered && heading.level > 0 && at(heading.byte_start) && at(heading.byte_end)
        });
        let titles = self.outline.headings.iter().map(|heading| &heading.title).chain(&self.outline.title);
        let storable = !self.text.contains('\0') && titles.into_iter().all(|title| !title.contains('\0'));
        let tag = |tag: &Option<String>| tag.as_ref().is_none_or(|t| t.len() <= 64 && !t.contains('\0'));
        let missing = &self.outline.missing;
        pages
            && missing.len() <= MOST_REASONS
            && missing.iter().all(Missing::is_sound)
            && headings
            && storable
            && self.outline.detected_type.len() <= 200
            && tag(&self.outline.language)
            && tag(&self.outline.encoding)
    }

    /// The pages that the bytes from `start` to `end` touch, first and last; zeros without pages.
    #[must_use]
    pub fn pages_of(&self, start: usize, end: usize) -> (u32, u32) {
        let pages = &self.outline.pages;
        let at = |offset: usize| {
            let index = pages.partition_point(|page| page.byte_start <= offset).saturating_sub(1);
            pages.get(index).map_or(0, |page| page.number)
        };
        (at(start), at(end.saturating_sub(1).max(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u32, byte_start: usize, byte_end: usize) -> PageSpan {
        PageSpan { number, byte_start, byte_end }
    }

    #[test]
    fn offsets_inside_a_character_are_refused() {
        let outline = Outline { pages: vec![page(1, 0, 1)], ..Outline::default() };
        assert!(!Extracted { text: "é".into(), outline: outline.clone(), ..Extracted::default() }.is_sound());
        assert!(Extracted { text: "ee".into(), outline, ..Extracted::default() }.is_sound());
        let heading = Heading { level: 1, byte_start: 0, byte_end: 99, title: String::new() };
        let outline = Outline { headings: vec![heading], ..Outline::default() };
        assert!(!Extracted { text: "ee".into(), outline, ..Extracted::default() }.is_sound());
        assert!(!Extracted { text: "a\0".into(), ..Extracted::default() }.is_sound());
    }

    #[test]
    fn pages_that_are_missing_for_very_many_reasons_leave_the_document_sound() {
        let mut missing = Vec::new();
        for page in 1..=300 {
            Missing::add(
                &mut missing,
                page,
                Failure::new(ReasonCode::Corrupt, format!("reason {}", page % 100)),
            );
        }
        assert_eq!(missing.len(), MOST_REASONS);
        assert_eq!(missing.iter().map(Missing::count).sum::<u32>(), 300);
        let outline = Outline { missing, ..Outline::default() };
        assert!(Extracted { text: "text".into(), outline, ..Extracted::default() }.is_sound());
    }

    #[test]
    fn a_range_touches_its_first_and_last_page() {
        let outline =
            Outline { pages: vec![page(1, 0, 4), page(2, 6, 9), page(4, 11, 12)], ..Outline::default() };
        let extracted = Extracted { text: "aaaa\n\nbbb\n\nc".into(), outline, ..Extracted::default() };
        assert_eq!(extracted.pages_of(0, 4), (1, 1));
        assert_eq!(extracted.pages_of(3, 7), (1, 2));
        assert_eq!(extracted.pages_of(6, 12), (2, 4));
        assert_eq!(Extracted::default().pages_of(0, 0), (0, 0));
    }
}
