//! A document's story: the lines that name it, in the logs of all services, in the order of their times.

use std::collections::BTreeMap;

use serde_json::Value;

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub service: String,
    pub step: String,
    /// All that it says, as text.
    pub fields: BTreeMap<String, String>,
}

/// What `grep DOCUMENT | sort` gives, of the lines that say a step.
pub fn of(logs: &[String], document: &str) -> Vec<Line> {
    let lines = logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(document));
    let mut lines: Vec<Line> = lines.filter_map(read).filter(|line| !line.step.is_empty()).collect();
    lines.sort_by(|a, b| a.fields["timestamp"].cmp(&b.fields["timestamp"]));
    lines
}

/// A line of either format; none where it is cut off in the middle.
fn read(line: &str) -> Option<Line> {
    let fields = if line.starts_with('{') { of_json(line)? } else { of_text(line)? };
    let get = |name: &str| fields.get(name).cloned().unwrap_or_default();
    Some(Line { service: get("service"), step: get("step"), fields })
}

fn of_json(line: &str) -> Option<BTreeMap<String, String>> {
    let Value::Object(fields) = serde_json::from_str(line).ok()? else { return None };
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Some(fields.into_iter().map(|(name, value)| (name, text(value))).collect())
}

/// `TIME LEVEL SERVICE MESSAGE.. name=value name="a value"`.
fn of_text(line: &str) -> Option<BTreeMap<String, String>> {
    let mut words = line.split_whitespace();
    let mut fields = BTreeMap::new();
    for name in ["timestamp", "level", "service"] {
        fields.insert(name.to_owned(), words.next()?.to_owned());
    }
    let service = format!(" {} ", fields["service"]);
    let mut rest = line.split_once(&service)?.1;
    let mut message = Vec::new();
    while !rest.is_empty() {
        let word = rest.split(' ').next()?;
        let name = word.split_once('=').map(|(name, _)| name).filter(|name| is_name(name));
        let Some(name) = name else {
            message.push(word);
            rest = rest[word.len()..].trim_start_matches(' ');
            continue;
        };
        let value = &rest[name.len() + 1..];
        let (value, length) = match value.starts_with('"') {
            true => quoted(value)?,
            false => (value.split(' ').next()?.to_owned(), value.split(' ').next()?.len()),
        };
        rest = rest[name.len() + 1 + length..].trim_start_matches(' ');
        fields.insert(name.to_owned(), value);
    }
    fields.insert("message".to_owned(), message.join(" "));
    fields.contains_key("target").then_some(fields)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// The text in quotes that `value` begins with, and how long it is there.
fn quoted(value: &str) -> Option<(String, usize)> {
    let mut texts = serde_json::Deserializer::from_str(value).into_iter::<String>();
    let text = texts.next()?.ok()?;
    Some((text, texts.byte_offset()))
}
