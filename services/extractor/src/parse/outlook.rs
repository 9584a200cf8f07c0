//! Messages of Outlook: subject, people, body and attachments.

use std::io::Cursor;

use encoding_rs::UTF_16LE;
use office_oxide::cfb::CfbReader;
use riacho_domain::ReasonCode;

use super::{
    Limits, Parsed,
    attachments::{Attachments, MOST_NAMES, Names},
    html,
    mail::DEPTH,
    one_line,
};
use crate::{encoding, extracted::Failure};

type File<'a> = CfbReader<Cursor<&'a [u8]>>;

/// Reads a message. The streams are named after the properties of the message (MS-OXMSG).
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, Failure> {
    let mut file = CfbReader::new(Cursor::new(bytes))
        .map_err(|error| Failure::new(ReasonCode::Corrupt, format!("the message is damaged: {error}")))?;
    let lower = |id: &str, file: &mut _| property(file, "", id).unwrap_or_default().to_ascii_lowercase();
    let (class, headers) = (lower("001A", &mut file), lower("007D", &mut file));
    let sealed = class.contains("smime") && !class.contains("multipartsigned");
    if sealed || headers.contains("multipart/encrypted") {
        return Err(Failure::new(ReasonCode::Encrypted, "the message is encrypted"));
    }
    let mut attachments = Attachments::new(limits, bytes.len());
    let subject = property(&mut file, "", "0037");
    let mut writer = Writer {
        file,
        out: String::new(),
        has_content: false,
        seen: 0,
        limits,
        attachments: &mut attachments,
    };
    let written = writer.message("", 1);
    let (text, has_content) = (writer.out, writer.has_content);
    let parsed = written.and_then(|()| {
        if !has_content {
            return Err(Failure::new(ReasonCode::Empty, "the message has neither a subject nor a body"));
        }
        let text = encoding::clean(text);
        let mut parsed = Parsed::plain(text.trim_end().to_owned());
        parsed.outline.headings = super::markdown::headings(&parsed.text)
            .into_iter()
            .take(usize::from(subject.is_some()))
            .collect();
        parsed.outline.title = subject;
        Ok(parsed)
    });
    attachments.with(parsed)
}

/// Writes a message with those inside of it.
struct Writer<'a, 'b> {
    file: File<'a>,
    out: String,
    has_content: bool,
    /// How many attachments were looked at.
    seen: usize,
    limits: &'a Limits,
    attachments: &'a mut Attachments<'b>,
}

impl Writer<'_, '_> {
    /// The message whose streams stand in the folder.
    fn message(&mut self, folder: &str, depth: usize) -> Result<(), Failure> {
        if let Some(subject) = property(&mut self.file, folder, "0037") {
            self.has_content = true;
            self.out.push_str(&format!("{} {}\n\n", "#".repeat(depth), one_line(&subject)));
        }
        for (name, id) in [("From", "0C1A"), ("To", "0E04"), ("Cc", "0E03")] {
            if let Some(value) = property(&mut self.file, folder, id) {
                self.out.push_str(&format!("{name}: {}\n", value.trim()));
            }
        }
        self.out.push('\n');
        // What is attached to a message that cannot be read can be read all the same.
        let body = self.body(folder);
        let attachments = self.attached(folder, depth);
        body.and(attachments)
    }

    fn body(&mut self, folder: &str) -> Result<(), Failure> {
        let body = match property(&mut self.file, folder, "1000") {
            Some(body) => Some(body),
            None => html_body(&mut self.file, folder)?,
        };
        if let Some(body) = body {
            self.has_content = true;
            self.out.push_str(&body);
            self.out.push_str("\n\n");
        }
        if self.out.len() as u64 > self.limits.max_text_bytes {
            return Err(super::text_too_large(self.limits));
        }
        Ok(())
    }

    /// What is attached: each stands in a folder of its own. A message inside of this one is a part of its text.
    fn attached(&mut self, folder: &str, depth: usize) -> Result<(), Failure> {
        let (mut names, mut inner_ones) = (Names::default(), Ok(()));
        for number in 0.. {
            let storage = format!("{folder}__attach_version1.0_#{number:08X}/");
            if self.seen >= MOST_NAMES
                || self.file.find_entry_by_path(storage.trim_end_matches('/')).is_none()
            {
                break;
            }
            self.seen += 1;
            // The long name, else the short one.
            let name = property(&mut self.file, &storage, "3707")
                .or_else(|| property(&mut self.file, &storage, "3704"))
                .map(|name| one_line(&name));
            let inner = format!("{storage}__substg1.0_3701000D");
            if self.file.find_entry_by_path(&inner).is_some() && depth < DEPTH {
                let read = self.message(&format!("{inner}/"), depth + 1);
                inner_ones = inner_ones.and(read);
                continue;
            }
            if let Some(bytes) = stream(&mut self.file, &format!("{storage}__substg1.0_37010102")) {
                self.attachments.add(name.as_deref(), &bytes);
            }
            names.add(name);
        }
        if let Some(list) = names.list() {
            self.has_content = true;
            self.out.push_str(&list);
            self.out.push('\n');
        }
        inner_ones
    }
}

fn stream(file: &mut File<'_>, path: &str) -> Option<Vec<u8>> {
    let entry = file.find_entry_by_path(path)?;
    file.read_stream_by_index(entry).ok()
}

/// A property that is a string, in Unicode or in the sender's encoding.
fn property(file: &mut File<'_>, folder: &str, id: &str) -> Option<String> {
    let text = match stream(file, &format!("{folder}__substg1.0_{id}001F")) {
        Some(bytes) => UTF_16LE.decode_without_bom_handling(&bytes).0.into_owned(),
        None => encoding::decode(&stream(file, &format!("{folder}__substg1.0_{id}001E"))?, None)?.text,
    };
    (!text.trim().is_empty()).then_some(text)
}

fn html_body(file: &mut File<'_>, folder: &str) -> Result<Option<String>, Failure> {
    let Some(bytes) = stream(file, &format!("{folder}__substg1.0_10130102")) else { return Ok(None) };
    let Some(decoded) = encoding::decode(&bytes, html::declared_encoding(&bytes).as_deref()) else {
        return Ok(None);
    };
    html::to_markdown(&decoded.text).map(Some)
}

#[cfg(test)]
#[path = "../../tests/support/compound.rs"]
mod compound;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{
        compound::{attached_file, attached_message, file, message},
        *,
    };

    #[test]
    fn a_message_gives_its_text_and_its_attachments() {
        let attachments = vec![attached_file("levels.csv", b"a,b"), attached_file("notes.txt", b"low water")];
        let bytes = file(&message("Levels", "See the table.", attachments));
        let parsed = parse(&bytes, &Limits::default()).unwrap();
        for part in ["# Levels", "From: Ana Reis", "See the table.", "- levels.csv\n- notes.txt"] {
            assert!(parsed.text.contains(part), "{part}: {}", parsed.text);
        }
        let names: Vec<_> =
            parsed.attachments.iter().map(|a| (a.filename.as_str(), a.bytes.as_slice())).collect();
        assert_eq!(names, [("levels.csv", &b"a,b"[..]), ("notes.txt", &b"low water"[..])]);
    }

    #[test]
    fn attachments_that_share_their_bytes_are_not_more_than_the_message() {
        let large = vec![7; 100_000];
        let attachments: Vec<_> = (0..50).map(|n| attached_file(&format!("{n}.bin"), &large)).collect();
        let bytes = file(&message("Levels", "See the tables.", attachments));
        assert!(bytes.len() < 200_000, "they share their sectors");
        let parsed = parse(&bytes, &Limits::default()).unwrap();
        assert_eq!(parsed.attachments.len(), 1, "a second one is more than the message has");
        assert!(parsed.text.contains("- 49.bin"), "all are named");
    }

    #[test]
    fn messages_inside_of_a_message_are_a_part_of_its_text() {
        let inner = message("Inner", "The inner text.", vec![attached_file("deep.csv", b"a,b")]);
        let bytes = file(&message("Outer", "The outer text.", vec![attached_message("Inner", inner)]));
        let parsed = parse(&bytes, &Limits::default()).unwrap();
        for part in ["# Outer\n", "The outer text.", "## Inner\n", "The inner text.", "- deep.csv"] {
            assert!(parsed.text.contains(part), "{part}: {}", parsed.text);
        }
        assert_eq!(parsed.attachments[0].filename, "deep.csv");
    }

    #[test]
    fn attachments_of_a_message_are_all_named_and_outlive_its_text() {
        let attachments = (0..60).map(|n| attached_file(&format!("{n}.csv"), format!("{n}").as_bytes()));
        let bytes = file(&message("Many", "Text.", attachments.collect()));
        let parsed = parse(&bytes, &Limits::default()).unwrap();
        assert_eq!(parsed.attachments.len(), 50);
        assert!(parsed.text.contains("- 59.csv"));
        let limits = Limits { max_text_bytes: 4, ..Limits::default() };
        let parsed = parse(&bytes, &limits).unwrap();
        assert_eq!(parsed.unreadable.unwrap().reason, ReasonCode::TooLarge);
        assert_eq!(parsed.attachments.len(), 50);
    }
}
