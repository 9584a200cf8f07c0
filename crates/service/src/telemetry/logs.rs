//! Log lines: one a event, with the fields of the spans it happened in, as JSON or as text. Both say the same under the
//! same names.

use std::{
    fmt::{self, Write as _},
    io::{IsTerminal, Write as _},
};

use chrono::{SecondsFormat, Utc};
use riacho_domain::{SERVICES, StageName};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use crate::config::LogFormat;

/// Writes lines to standard error.
pub(super) struct Logs {
    format: LogFormat,
    /// The process's service; where several are one process, what the lines of none of them say.
    service: &'static str,
    /// Whether the process is one service.
    is_alone: bool,
    colours: bool,
}

impl Logs {
    /// For a process of these services.
    pub(super) fn new(format: LogFormat, services: &[&'static str]) -> Logs {
        let (service, is_alone) = match services {
            [only] => (*only, true),
            _ => ("riacho", false),
        };
        Logs { format, service, is_alone, colours: std::io::stderr().is_terminal() }
    }

    /// The line of an event, with its end.
    fn line(&self, level: Level, target: &str, fields: Fields) -> String {
        let service = match fields.service {
            Some(service) => service,
            None if self.is_alone => self.service,
            None => service_of(target, &fields, self.service),
        };
        let Fields { message, log_target, list, .. } = fields;
        let line = Line { level, service, target: log_target.as_deref().unwrap_or(target), message, list };
        match self.format {
            LogFormat::Json => line.json(),
            LogFormat::Text => line.text(self.colours),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Logs {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add_outer(outer);
            }
        }
        let metadata = event.metadata();
        let line = self.line(*metadata.level(), metadata.target(), fields);
        // Where standard error is closed there is nobody to tell.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// Which of several services of one process a line is of.
fn service_of(target: &str, fields: &Fields, otherwise: &'static str) -> &'static str {
    let krate = target.split("::").next().unwrap_or_default();
    match krate {
        "riacho_ingest_gateway" => return "ingest-gateway",
        "riacho_extractor" => return "extractor",
        "riacho_embedder" => return "embedder",
        "riacho_indexer" => return "indexer",
        "riacho_janitor" => return "janitor",
        _ => {}
    }
    let stage = fields.list.iter().find(|(name, _)| *name == "stage").and_then(|(_, value)| value.as_str());
    stage.and_then(|stage| stage.parse::<StageName>().ok()).map_or(otherwise, StageName::service)
}

/// What an event or a span says.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    /// Where a line comes from that a library wrote in another way.
    log_target: Option<String>,
    /// Whose line it is, where what is shared by services says so.
    service: Option<&'static str>,
    list: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            "log.target" => self.log_target = value.as_str().map(str::to_owned),
            "service" => {
                self.service =
                    value.as_str().and_then(|name| SERVICES.into_iter().find(|known| *known == name))
            }
            name if name.starts_with("log.") => {}
            name => {
                let name = name.strip_prefix("r#").unwrap_or(name);
                match self.list.iter_mut().find(|(known, _)| *known == name) {
                    Some(known) => known.1 = value,
                    None => self.list.push((name, value)),
                }
            }
        }
    }

    /// Adds what is around it, where it does not say the same itself.
    fn add_outer(&mut self, outer: &Fields) {
        for (name, value) in &outer.list {
            if !self.list.iter().any(|(known, _)| known == name) {
                self.list.push((*name, value.clone()));
            }
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

/// A line.
struct Line<'a> {
    level: Level,
    service: &'static str,
    target: &'a str,
    message: String,
    list: Vec<(&'static str, Value)>,
}

impl Line<'_> {
    fn time() -> String {
        Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    fn json(&self) -> String {
        let mut bytes = Vec::with_capacity(256);
        let mut serializer = serde_json::Serializer::new(&mut bytes);
        let written = (|| {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("timestamp", &Line::time())?;
            map.serialize_entry("level", self.level.as_str())?;
            map.serialize_entry("service", self.service)?;
            map.serialize_entry("message", &self.message)?;
            for (name, value) in &self.list {
                map.serialize_entry(name, value)?;
            }
            map.serialize_entry("target", self.target)?;
            map.end()
        })();
        // Texts and numbers can always be written.
        let _: Result<(), serde_json::Error> = written;
        let mut line = String::from_utf8(bytes).unwrap_or_default();
        // Of these JSON escapes none but the first 32, and they stand nowhere but in its texts.
        if line.chars().any(is_active) {
            let json = std::mem::take(&mut line);
            escape(&mut line, &json);
        }
        line.push('\n');
        line
    }

    fn text(&self, colours: bool) -> String {
        let mut line = String::with_capacity(256);
        let (on, off) = if colours { (colour(self.level), "\u{1b}[0m") } else { ("", "") };
        // Writing to a text cannot fail.
        let _ = write!(line, "{} {on}{:>5}{off} {} ", Line::time(), self.level.as_str(), self.service);
        escape(&mut line, &self.message);
        for (name, value) in self.list.iter().map(|(name, value)| (*name, value)) {
            let _ = write!(line, " {name}=");
            match value {
                Value::String(text) => value_text(&mut line, text),
                other => {
                    let _ = write!(line, "{other}");
                }
            }
        }
        let _ = writeln!(line, " target={}", self.target);
        line
    }
}

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        Level::TRACE => "\u{1b}[35m",
    }
}

/// A text in quotes, as JSON has it, where it would not be one word without.
fn value_text(line: &mut String, text: &str) {
    let is_word = !text.is_empty()
        && !text.chars().any(|c| c.is_whitespace() || matches!(c, '"' | '\\' | '=') || is_active(c));
    if is_word {
        return line.push_str(text);
    }
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            c => escape_char(line, c),
        }
    }
    line.push('"');
}

/// Nothing that somebody sends begins a line of its own, or speaks to a terminal.
fn escape(line: &mut String, text: &str) {
    text.chars().for_each(|c| escape_char(line, c));
}

/// Whether a character does something where it is shown, instead of being seen: ends a line, speaks to a terminal, or
/// changes the order in which others are shown (Unicode's bidirectional controls).
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape_char(line: &mut String, c: char) {
    if is_active(c) {
        let _ = write!(line, "\\u{:04x}", u32::from(c));
    } else {
        line.push(c);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields() -> Fields {
        let list = vec![
            ("stage", Value::from("embed")),
            ("error", "two\nlines \"quoted\" a=b".into()),
            ("attempt", 2.into()),
            ("empty", "".into()),
        ];
        Fields { message: "an event\u{1b}[2J failed".into(), log_target: None, service: None, list }
    }

    fn line(format: LogFormat, services: &[&'static str]) -> String {
        let logs = Logs { colours: false, ..Logs::new(format, services) };
        logs.line(Level::INFO, "riacho_stage::runner", fields())
    }

    #[test]
    fn json_has_all_on_one_level() {
        let line = line(LogFormat::Json, &["embedder"]);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(value["service"], "embedder");
        assert_eq!(value["level"], "INFO");
        assert_eq!(value["error"], "two\nlines \"quoted\" a=b");
        assert_eq!(value["attempt"], 2);
        assert_eq!(value["target"], "riacho_stage::runner");
    }

    #[test]
    fn text_has_the_same_and_nobody_makes_lines_of_their_own() {
        let line = line(LogFormat::Text, &["embedder"]);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(!line.contains('\u{1b}'), "{line}");
        let said = r#" INFO embedder an event\u001b[2J failed stage=embed error="two\u000alines \"quoted\" a=b" attempt=2 empty="" target=riacho_stage::runner"#;
        assert!(line.trim_end().ends_with(said), "{line}");
    }

    #[test]
    fn nothing_that_a_client_sends_begins_a_line_or_moves_what_is_shown() {
        let forged = "a.pdf\r\n2026-11-27T09:00:00.000000Z  INFO janitor purged step=purged\u{85}\u{2028}\u{2029}\u{b}\u{c}\u{1b}[2K\u{9b}1A\u{7f}\u{202e}fdp\u{2066}";
        let of = |format| {
            let list = vec![("error", Value::from(forged))];
            let fields = Fields { message: forged.into(), list, ..Fields::default() };
            Logs { colours: false, ..Logs::new(format, &["janitor"]) }.line(Level::INFO, "riacho", fields)
        };
        for format in [LogFormat::Json, LogFormat::Text] {
            let line = of(format);
            let line = line.strip_suffix('\n').unwrap();
            assert!(!line.chars().any(is_active), "{line:?}");
        }
        let json: Value = serde_json::from_str(&of(LogFormat::Json)).unwrap();
        assert_eq!((&json["error"], &json["message"]), (&Value::from(forged), &Value::from(forged)));
        let text = of(LogFormat::Text);
        assert!(text.contains(r#" error="a.pdf\u000d\u000a2026-"#), "{text}");
        assert!(
            text.contains(r"\u0085\u2028\u2029\u000b\u000c\u001b[2K\u009b1A\u007f\u202efdp\u2066"),
            "{text}"
        );
    }

    #[test]
    fn in_a_process_of_several_services_a_line_is_of_one() {
        let value: Value = serde_json::from_str(&line(LogFormat::Json, &SERVICES)).unwrap();
        assert_eq!(value["service"], "embedder");
        let none = Fields::default();
        assert_eq!(service_of("riacho_janitor::told", &none, "riacho"), "janitor");
        assert_eq!(service_of("riacho_local::servers", &none, "riacho"), "riacho");
    }

    #[test]
    fn what_is_inside_wins_over_what_is_around_it() {
        let mut inner = Fields { list: vec![("attempt", 1.into())], ..Fields::default() };
        inner.add_outer(&fields());
        let attempts: Vec<&Value> =
            inner.list.iter().filter(|(n, _)| *n == "attempt").map(|(_, v)| v).collect();
        assert_eq!(attempts, [&Value::from(1)]);
        assert!(inner.list.iter().any(|(name, _)| *name == "stage"));
    }
}
