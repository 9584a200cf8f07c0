//! Messages of Outlook: subject, people, body and attachments.

use std::io::Cursor;

use encoding_rs::UTF_16LE;
use office_oxide::cfb::CfbReader;
use riacho_domain::ReasonCode;

use super::{Limits, Parsed, attachments::Attachments, html, one_line};
use crate::{
    encoding,
    extracted::{Attachment, Failure},
};

/// Reads a message. The streams are named after the properties of the message (MS-OXMSG).
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, Failure> {
    let mut file = CfbReader::new(Cursor::new(bytes))
        .map_err(|error| Failure::new(ReasonCode::Corrupt, format!("the message is damaged: {error}")))?;
    let lower = |id: &str, file: &mut _| property(file, id).unwrap_or_default().to_ascii_lowercase();
    let (class, headers) = (lower("001A", &mut file), lower("007D", &mut file));
    let sealed = class.contains("smime") && !class.contains("multipartsigned");
    if sealed || headers.contains("multipart/encrypted") {
        return Err(Failure::new(ReasonCode::Encrypted, "the message is encrypted"));
    }
    let mut text = String::new();
    let subject = property(&mut file, "0037");
    if let Some(subject) = &subject {
        text.push_str(&format!("# {}\n\n", one_line(subject)));
    }
    for (name, id) in [("From", "0C1A"), ("To", "0E04"), ("Cc", "0E03")] {
        if let Some(value) = property(&mut file, id) {
            text.push_str(&format!("{name}: {}\n", value.trim()));
        }
    }
    text.push('\n');
    let body = match property(&mut file, "1000") {
        Some(body) => Some(body),
        None => html_body(&mut file)?,
    };
    if subject.is_none() && body.is_none() {
        return Err(Failure::new(ReasonCode::Empty, "the message has neither a subject nor a body"));
    }
    text.push_str(&body.unwrap_or_default());
    let (names, attachments) = attached(&mut file, bytes.len(), limits);
    if !names.is_empty() {
        text.push_str("\n\nAttachments:\n");
        text.extend(names.iter().map(|name| format!("- {name}\n")));
    }
    if text.len() as u64 > limits.max_text_bytes {
        return Err(super::text_too_large(limits));
    }
    let text = encoding::clean(text);
    let mut parsed = Parsed::plain(text.trim_end().to_owned());
    parsed.outline.headings =
        super::markdown::headings(&parsed.text).into_iter().take(usize::from(subject.is_some())).collect();
    parsed.outline.title = subject;
    parsed.attachments = attachments;
    Ok(parsed)
}

/// The names of what is attached, and the files. Each stands in a storage of its own; a message inside of
/// this one is only named.
fn attached(
    file: &mut CfbReader<Cursor<&[u8]>>,
    size: usize,
    limits: &Limits,
) -> (Vec<String>, Vec<Attachment>) {
    let (mut names, mut attachments) = (Vec::new(), Attachments::new(limits, size));
    for number in 0..limits.max_attachments {
        let storage = format!("__attach_version1.0_#{number:08X}");
        if file.find_entry_by_path(&storage).is_none() {
            break;
        }
        let mut stream = |property: &str| {
            let entry = file.find_entry_by_path(&format!("{storage}/__substg1.0_{property}"))?;
            file.read_stream_by_index(entry).ok()
        };
        let unicode = |bytes: Vec<u8>| UTF_16LE.decode_without_bom_handling(&bytes).0.into_owned();
        // The long name, else the short one, each in Unicode or in the sender's encoding.
        let name = stream("3707001F").or_else(|| stream("3704001F")).map(unicode).or_else(|| {
            let bytes = stream("3707001E").or_else(|| stream("3704001E"))?;
            encoding::decode(&bytes, None).map(|decoded| decoded.text)
        });
        let name = name.map(|name| one_line(&name)).filter(|name| !name.is_empty());
        if let Some(bytes) = stream("37010102") {
            attachments.add(name.as_deref(), &bytes);
        }
        names.extend(name);
    }
    (names, attachments.files)
}

/// A property that is a string, in Unicode or in the sender's encoding.
fn property(file: &mut CfbReader<Cursor<&[u8]>>, id: &str) -> Option<String> {
    let text = if let Ok(bytes) = file.open_stream(&format!("__substg1.0_{id}001F")) {
        UTF_16LE.decode_without_bom_handling(&bytes).0.into_owned()
    } else {
        let bytes = file.open_stream(&format!("__substg1.0_{id}001E")).ok()?;
        encoding::decode(&bytes, None)?.text
    };
    (!text.trim().is_empty()).then_some(text)
}

fn html_body(file: &mut CfbReader<Cursor<&[u8]>>) -> Result<Option<String>, Failure> {
    let Ok(bytes) = file.open_stream("__substg1.0_10130102") else { return Ok(None) };
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
        compound::{attached_file, file, message},
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
}
