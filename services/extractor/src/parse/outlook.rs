//! Messages of Outlook: subject, people and body.

use std::io::Cursor;

use encoding_rs::UTF_16LE;
use office_oxide::cfb::CfbReader;
use riacho_domain::ReasonCode;

use super::{Limits, Parsed, html, one_line};
use crate::{encoding, extracted::Failure};

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
    if text.len() as u64 > limits.max_text_bytes {
        return Err(super::text_too_large(limits));
    }
    let text = encoding::clean(text);
    let mut parsed = Parsed::plain(text.trim_end().to_owned());
    parsed.outline.headings =
        super::markdown::headings(&parsed.text).into_iter().take(usize::from(subject.is_some())).collect();
    parsed.outline.title = subject;
    Ok(parsed)
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
