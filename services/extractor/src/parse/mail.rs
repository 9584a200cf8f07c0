//! E-mail messages: the headers that people read, the body, and the attachments, whose names stand in the text.

use std::borrow::Cow;

use mail_parser::{
    Address, Encoding, Message, MessageParser, MessagePart, MimeHeaders, PartType,
    decoders::{base64::base64_decode, quoted_printable::quoted_printable_decode},
};
use riacho_domain::ReasonCode;

use super::{
    Limits, Parsed,
    attachments::{Attachments, Names},
    html, markdown, one_line,
};
use crate::{
    encoding,
    extracted::{Failure, Heading},
};

/// Messages inside messages are a part of the text so far; deeper ones are attachments.
pub(super) const DEPTH: usize = 4;
/// The most parts and people of a message that are looked at.
const MOST_PARTS: usize = 200;

/// Reads a message, or a mailbox with several, from a file of so many bytes.
pub(super) fn parse(bytes: &[u8], size: usize, limits: &Limits) -> Result<Parsed, Failure> {
    let messages = mailbox(bytes);
    let mut attachments = Attachments::new(limits, size);
    if let [only] = messages.as_slice() {
        let parsed = parse_one(only, limits, &mut attachments);
        return attachments.with(parsed);
    }
    let mut all = Parsed::default();
    let mut failure = None;
    for message in messages {
        let one = match parse_one(message, limits, &mut attachments) {
            Ok(one) => one,
            // A message that cannot be read is a hole in the mailbox, not the end of it.
            Err(error) => {
                failure.get_or_insert(error);
                continue;
            }
        };
        if !all.text.is_empty() {
            all.text.push_str("\n\n");
        }
        let shift = all.text.len();
        all.text.push_str(&one.text);
        all.outline.headings.extend(one.outline.headings.into_iter().map(|heading| Heading {
            byte_start: heading.byte_start + shift,
            byte_end: heading.byte_end + shift,
            ..heading
        }));
        if all.text.len() as u64 > limits.max_text_bytes {
            return attachments.with(Err(super::text_too_large(limits)));
        }
    }
    match failure {
        Some(failure) if all.text.is_empty() => attachments.with(Err(failure)),
        _ => attachments.with(Ok(all)),
    }
}

/// The messages of a mailbox: each stands behind a line that begins with `From ` after a blank one.
fn mailbox(bytes: &[u8]) -> Vec<&[u8]> {
    const MARK: &[u8] = b"From ";
    let mut messages = Vec::new();
    let mut rest = bytes;
    while rest.starts_with(MARK) {
        let start = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |end| end + 1);
        let message = &rest[start..];
        let next = message.windows(6).enumerate().position(|(at, window)| {
            window[0] == b'\n'
                && &window[1..] == MARK
                && matches!(&message[..at], [.., b'\n'] | [.., b'\n', b'\r'])
        });
        let end = next.map_or(message.len(), |at| at + 1);
        messages.push(&message[..end]);
        rest = &message[end..];
    }
    if messages.is_empty() { vec![bytes] } else { messages }
}

fn parse_one(bytes: &[u8], limits: &Limits, attachments: &mut Attachments<'_>) -> Result<Parsed, Failure> {
    let message = MessageParser::default()
        .parse(bytes)
        .ok_or_else(|| Failure::new(ReasonCode::Corrupt, "the message has no readable headers"))?;
    if is_encrypted(&message) {
        return Err(Failure::new(ReasonCode::Encrypted, "the message is encrypted"));
    }
    let mut writer = Writer { out: String::new(), has_content: false, limits, attachments };
    writer.message(&message, 1)?;
    if !writer.has_content {
        return Err(Failure::new(ReasonCode::Empty, "the message has neither a subject nor a body"));
    }
    let text = encoding::clean(writer.out);
    let mut parsed = Parsed::markdown(text.trim_end().to_owned());
    // Only the subjects are headings: a body may hold any mark.
    parsed.outline.headings = subjects(&parsed.text, &message);
    parsed.outline.title = message.subject().map(one_line).filter(|subject| !subject.is_empty());
    Ok(parsed)
}

fn subjects(text: &str, message: &Message<'_>) -> Vec<Heading> {
    let has_subject = message.subject().is_some_and(|subject| !one_line(subject).is_empty());
    markdown::headings(text).into_iter().take(usize::from(has_subject)).collect()
}

fn is_encrypted(message: &Message<'_>) -> bool {
    message.content_type().is_some_and(|content| {
        let subtype = content.subtype().unwrap_or_default();
        subtype.eq_ignore_ascii_case("encrypted")
            || (subtype.to_ascii_lowercase().ends_with("pkcs7-mime")
                && content
                    .attribute("smime-type")
                    .is_none_or(|kind| kind.eq_ignore_ascii_case("enveloped-data")))
    })
}

/// Writes a message with those inside of it.
struct Writer<'a, 'b> {
    out: String,
    has_content: bool,
    limits: &'a Limits,
    attachments: &'a mut Attachments<'b>,
}

impl Writer<'_, '_> {
    fn message(&mut self, message: &Message<'_>, depth: usize) -> Result<(), Failure> {
        let subject = message.subject().map(one_line).unwrap_or_default();
        if !subject.is_empty() {
            self.has_content = true;
            self.out.push_str(&format!("{} {subject}\n\n", "#".repeat(depth)));
        }
        for (name, address) in [("From", message.from()), ("To", message.to()), ("Cc", message.cc())] {
            let people = address.map(people).unwrap_or_default();
            if !people.is_empty() {
                self.out.push_str(&format!("{name}: {people}\n"));
            }
        }
        if let Some(date) = message.date().filter(|date| date.is_valid()) {
            self.out.push_str(&format!("Date: {}\n", date.to_rfc3339()));
        }
        self.out.push('\n');
        // What is attached to a message that cannot be read can be read all the same.
        let bodies = self.bodies(message);
        let attachments = self.attachments(message, depth);
        bodies.and(attachments)
    }

    fn bodies(&mut self, message: &Message<'_>) -> Result<(), Failure> {
        for part in message.text_bodies().take(MOST_PARTS) {
            let body = match &part.body {
                PartType::Text(text) => text.trim().to_owned(),
                PartType::Html(page) => html::to_markdown(page)?,
                _ => continue,
            };
            if !body.is_empty() {
                self.has_content = true;
                self.out.push_str(&body);
                self.out.push_str("\n\n");
            }
            if self.out.len() as u64 > self.limits.max_text_bytes {
                return Err(super::text_too_large(self.limits));
            }
        }
        Ok(())
    }

    fn attachments(&mut self, message: &Message<'_>, depth: usize) -> Result<(), Failure> {
        let (mut names, mut inner_ones) = (Names::default(), Ok(()));
        for part in message.attachments() {
            match &part.body {
                PartType::Message(inner) if depth < DEPTH => {
                    let read = self.message(inner, depth + 1);
                    inner_ones = inner_ones.and(read);
                }
                _ => {
                    names.add(part.attachment_name().map(one_line));
                    if !is_decoration(part) {
                        self.attachments.add(part.attachment_name(), &file(message, part));
                    }
                }
            }
        }
        if let Some(list) = names.list() {
            self.has_content = true;
            self.out.push_str(&list);
            self.out.push('\n');
        }
        inner_ones
    }
}

/// A part's bytes as they were attached. Those of text are decoded for the transfer only: in which encoding it was
/// written, its own document finds out.
fn file<'a>(message: &'a Message<'_>, part: &'a MessagePart<'_>) -> Cow<'a, [u8]> {
    if !part.is_text() {
        return part.contents().into();
    }
    let range = part.offset_body as usize..part.offset_end as usize;
    let Some(bytes) = message.raw_message.get(range) else { return part.contents().into() };
    let decoded = match part.encoding {
        Encoding::None => None,
        Encoding::QuotedPrintable => quoted_printable_decode(bytes),
        Encoding::Base64 => base64_decode(bytes),
    };
    decoded.map_or(Cow::Borrowed(bytes), Cow::Owned)
}

/// Pictures that are shown inside of the text, and signatures: nobody attached them.
fn is_decoration(part: &MessagePart<'_>) -> bool {
    let of = |kind: &str| part.content_type().is_some_and(|c| c.ctype().eq_ignore_ascii_case(kind));
    let subtype = part.content_type().and_then(|c| c.subtype()).unwrap_or_default().to_ascii_lowercase();
    let is_inline = !part.content_disposition().is_some_and(|d| d.is_attachment());
    of("image") && is_inline && part.content_id().is_some() || subtype.ends_with("-signature")
}

fn people(address: &Address<'_>) -> String {
    let people = address.iter().take(MOST_PARTS).map(|person| match (person.name(), person.address()) {
        (Some(name), Some(address)) => format!("{} <{address}>", one_line(name)),
        (Some(one), None) | (None, Some(one)) => one_line(one),
        (None, None) => String::new(),
    });
    people.filter(|person| !person.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_message_keeps_its_headers_body_and_attachment_names() {
        let message = b"From: Ana Reis <ana@example.org>\r\nTo: bo@example.org\r\n\
            Subject: =?iso-8859-1?Q?N=EDvel_do_rio?=\r\nDate: Fri, 16 Dec 2022 17:04:16 -0500\r\nMIME-Version: 1.0\r\n\
            Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>High <b>water</b></p>\r\n\
            --b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=levels.pdf\r\n\r\nx\r\n--b--\r\n";
        let parsed = parse(message, message.len(), &Limits::default()).unwrap();
        for part in
            ["# Nível do rio\n\n", "From: Ana Reis <ana@example.org>", "High **water**", "- levels.pdf"]
        {
            assert!(parsed.text.contains(part), "{part}: {}", parsed.text);
        }
        assert_eq!(parsed.outline.title.as_deref(), Some("Nível do rio"));
        let attached: Vec<_> =
            parsed.attachments.iter().map(|a| (a.filename.as_str(), a.bytes.as_slice())).collect();
        assert_eq!(attached, [("levels.pdf", &b"x"[..])]);
    }

    #[test]
    fn attachments_of_messages_inside_are_attached_and_decorations_are_not() {
        let message = b"From: a@b\r\nSubject: Outer\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n\
            --o\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Disposition: inline; filename=logo.png\r\n\r\nx\r\n\
            --o\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\n\r\nx\r\n\
            --o\r\nContent-Type: message/rfc822\r\n\r\nFrom: c@d\r\nSubject: Inner\r\nMIME-Version: 1.0\r\n\
            Content-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\nContent-Type: text/csv\r\n\
            Content-Disposition: attachment; filename=m.csv\r\nContent-Transfer-Encoding: base64\r\n\r\nYSxi\r\n--i--\r\n--o--\r\n";
        let parsed = parse(message, message.len(), &Limits::default()).unwrap();
        let attached: Vec<_> =
            parsed.attachments.iter().map(|a| (a.filename.as_str(), a.bytes.as_slice())).collect();
        assert_eq!(attached, [("m.csv", &b"a,b"[..])]);
    }

    #[test]
    fn an_attached_text_has_the_bytes_that_were_sent() {
        let utf_16: Vec<u8> = "\u{feff}n\u{ed}vel\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let encoded = |encoding: &str, kind: &str, body: &[u8]| {
            let head = format!(
                "--b\r\nContent-Type: {kind}\r\nContent-Disposition: attachment; filename=f\r\n\
                 Content-Transfer-Encoding: {encoding}\r\n\r\n"
            );
            [head.as_bytes(), body, b"\r\n"].concat()
        };
        // The Latin-1 table says no charset; the PDF says that it is text; the next says UTF-8 and is not; and bytes
        // that were not encoded stay as they are.
        let parts = [
            (encoded("base64", "text/csv", b"bu12ZWwsMQ0K"), b"n\xedvel,1\r\n".to_vec()),
            (encoded("base64", "text/plain; charset=utf-16", b"//5uAO0AdgBlAGwADQAKAA=="), utf_16),
            (
                encoded("base64", "text/plain", b"JVBERi0xLjcK4uPP0w=="),
                b"%PDF-1.7\n\xe2\xe3\xcf\xd3".to_vec(),
            ),
            (
                encoded("quoted-printable", "text/plain; charset=utf-8", b"n=EDvel =3D 1"),
                b"n\xedvel = 1".to_vec(),
            ),
            (encoded("8bit", "text/html; charset=utf-8", b"<p>n\xedvel</p>"), b"<p>n\xedvel</p>".to_vec()),
        ];
        let head = b"From: a@b\r\nSubject: S\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
        let mut message = head.to_vec();
        parts.iter().for_each(|(part, _)| message.extend(part));
        message.extend(b"--b--\r\n");
        let inside = [&b"From: c@d\r\nSubject: Outer\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=o\r\n\r\n\
            --o\r\nContent-Type: message/rfc822\r\n\r\n"[..], &message, b"\r\n--o--\r\n"].concat();
        for message in [message, inside] {
            let parsed = parse(&message, message.len(), &Limits::default()).unwrap();
            let files: Vec<_> = parsed.attachments.iter().map(|a| a.bytes.clone()).collect();
            assert_eq!(files, parts.clone().map(|(_, bytes)| bytes));
        }
    }

    #[test]
    fn a_message_that_cannot_be_read_keeps_its_attachments() {
        let attached = "Content-Type: text/csv\r\nContent-Disposition: attachment; filename=\r\n\r\na,b\r\n";
        let message = |head: &str, body: &str| {
            format!(
                "{head}MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{body}--b\r\n{attached}--b--\r\n"
            )
        };
        let deep = format!("--b\r\nContent-Type: text/html\r\n\r\n{}\r\n", "<div>".repeat(2_000));
        let cases = [
            (message("From: a@b\r\nSubject: Deep\r\n", &deep), ReasonCode::Corrupt),
            (message("From: a@b\r\n", ""), ReasonCode::Empty),
        ];
        for (message, reason) in cases {
            let parsed = parse(message.as_bytes(), message.len(), &Limits::default()).unwrap();
            assert_eq!(parsed.unreadable.unwrap().reason, reason);
            assert_eq!(parsed.attachments[0].bytes, b"a,b");
        }
        // Also where it is the whole of them that is too long.
        let long =
            message("From: a@b\r\nSubject: S\r\n", "--b\r\nContent-Type: text/plain\r\n\r\nlong text\r\n");
        let limits = Limits { max_text_bytes: 20, ..Limits::default() };
        for long in [long.clone(), format!("From a@b Mon\n{long}\nFrom a@b Mon\n{long}")] {
            let parsed = super::super::parse_text(long.as_bytes(), "m.eml", &limits).unwrap();
            let extracted = super::super::finish(parsed, &limits).unwrap();
            assert_eq!(extracted.unreadable.unwrap().reason, ReasonCode::TooLarge);
            assert!(extracted.text.is_empty() && !extracted.attachments.is_empty());
        }
    }

    #[test]
    fn all_attachments_are_named_and_messages_that_lie_too_deep_are_files() {
        let part = |n: usize| {
            format!(
                "--b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename={n}.csv\r\n\r\na\r\n"
            )
        };
        let parts: String = (0..300).map(part).collect();
        let head = "Subject: S\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
        let message = format!("From: a@b\r\n{head}{parts}--b--\r\n");
        let parsed = parse(message.as_bytes(), message.len(), &Limits::default()).unwrap();
        assert_eq!(parsed.attachments.len(), 50);
        assert!(parsed.text.contains("- 299.csv"));
        let mut message = String::from("From: e@f\r\nSubject: Deepest\r\n\r\nText.\r\n");
        for n in (1..=DEPTH).rev() {
            let head = head.replace("=b", &format!("=b{n}")).replace(": S", &format!(": Number {n}"));
            message = format!(
                "From: a@b\r\n{head}--b{n}\r\nContent-Type: message/rfc822\r\n\r\n{message}\r\n--b{n}--\r\n"
            );
        }
        let parsed = parse(message.as_bytes(), message.len(), &Limits::default()).unwrap();
        assert!(parsed.text.contains("Number 4") && !parsed.text.contains("Deepest"));
        let [file] = parsed.attachments.as_slice() else { panic!("{:?}", parsed.attachments) };
        assert!(file.bytes.starts_with(b"From: e@f\r\nSubject: Deepest"));
    }

    #[test]
    fn a_mailbox_gives_all_its_messages() {
        let mailbox = b"From a@b Mon Jan 1\nFrom: a@b\nSubject: One\n\nFirst.\n\nFrom c@d Tue Jan 2\nFrom: c@d\nSubject: Two\n\nSecond.\n";
        let parsed = parse(mailbox, mailbox.len(), &Limits::default()).unwrap();
        let found: Vec<_> =
            parsed.outline.headings.iter().map(|h| &parsed.text[h.byte_start..h.byte_end]).collect();
        assert_eq!(found, ["# One", "# Two"]);
        assert!(parsed.text.contains("First.") && parsed.text.ends_with("Second."));
    }

    #[test]
    fn an_encrypted_message_says_so() {
        let message = b"From: a@b\r\nContent-Type: multipart/encrypted; boundary=x\r\n\r\n--x--\r\n";
        assert_eq!(
            parse(message, message.len(), &Limits::default()).unwrap_err().reason,
            ReasonCode::Encrypted
        );
    }
}
