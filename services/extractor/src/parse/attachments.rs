//! The files attached to a message, within what a document may have of them.

use super::{Limits, Parsed, one_line};
use crate::extracted::{Attachment, Failure};

/// So many files and messages attached to a message are looked at and named.
pub(super) const MOST_NAMES: usize = 1_000;

/// Gathers attachments. What does not fit any more is left out; the message's text names it all the same.
pub(super) struct Attachments<'a> {
    limits: &'a Limits,
    /// How many bytes more they may have.
    room: u64,
    pub(super) files: Vec<Attachment>,
}

impl<'a> Attachments<'a> {
    /// Those of a message of so many bytes: more than it has itself they have only where it says one thing several
    /// times, as parts that share their bytes.
    pub(super) fn new(limits: &'a Limits, size: usize) -> Self {
        Self { limits, room: limits.max_attachments_bytes.min(size as u64), files: Vec::new() }
    }

    /// A message's text, or why it has none, with its attachments, which need no text.
    pub(super) fn with(self, parsed: Result<Parsed, Failure>) -> Result<Parsed, Failure> {
        let parsed = match parsed {
            Err(failure) if !self.files.is_empty() => {
                Parsed { unreadable: Some(failure), ..Parsed::default() }
            }
            parsed => parsed?,
        };
        Ok(Parsed { attachments: self.files, ..parsed })
    }

    /// Takes a file, or leaves it out.
    pub(super) fn add(&mut self, name: Option<&str>, bytes: &[u8]) {
        let size = bytes.len() as u64;
        let fits = self.files.len() < self.limits.max_attachments as usize
            && size <= self.room.min(self.limits.max_file_bytes);
        if bytes.is_empty() || !fits {
            return;
        }
        self.room -= size;
        let name = name.map(one_line).map(|name| last_component(&name)).filter(|name| !name.is_empty());
        let filename = name.unwrap_or_else(|| format!("attachment-{}", self.files.len() + 1));
        self.files.push(Attachment { filename, bytes: bytes.to_vec() });
    }
}

/// The names of what is attached to a message, as they stand in its text.
#[derive(Default)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn add(&mut self, name: Option<String>) {
        self.0.extend(name.filter(|name| !name.is_empty()));
    }

    /// All of them; nothing where there is none.
    pub(super) fn list(&self) -> Option<String> {
        let names = self.0.iter().take(MOST_NAMES).map(|name| format!("- {name}\n"));
        (!self.0.is_empty()).then(|| format!("Attachments:\n{}", names.collect::<String>()))
    }
}

/// A name is a name, never a path.
fn last_component(name: &str) -> String {
    name.rsplit(['/', '\\']).next().unwrap_or_default().trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_bounded_and_have_plain_names() {
        let limits = Limits { max_attachments: 3, max_attachments_bytes: 10, ..Limits::default() };
        let mut attachments = Attachments::new(&limits, 1_000);
        attachments.add(Some("..\\a/b/levels.pdf"), b"1234");
        attachments.add(None, b"");
        attachments.add(Some("too large.bin"), b"12345678");
        attachments.add(Some(" \r\n"), b"12");
        attachments.add(Some("c"), b"3");
        attachments.add(Some("one too many"), b"4");
        let names: Vec<_> = attachments.files.iter().map(|file| file.filename.as_str()).collect();
        assert_eq!(names, ["levels.pdf", "attachment-2", "c"]);
        let mut attachments = Attachments::new(&limits, 5);
        attachments.add(Some("a"), b"1234");
        attachments.add(Some("a"), b"1234");
        assert_eq!(attachments.files.len(), 1, "no more bytes than the message has");
    }
}
