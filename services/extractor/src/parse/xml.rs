//! XML to text that people can read: `name: text` for elements that hold one value, paragraphs for those
//! that hold prose, records apart.

use std::collections::HashSet;

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};

use super::opendocument::entity;

/// Deeper documents are left as they stand in the file.
const MAX_DEPTH: usize = 100;
/// Elements down to this depth have a blank line before them, where a chunk may end.
const RECORD_DEPTH: usize = 2;

/// The text of a document, and whether it is lines rather than prose. Nothing where it is not well-formed,
/// or would become longer than `most` bytes.
pub(super) fn to_text(xml: &str, most: u64) -> Option<(String, bool)> {
    let prose = prose_elements(xml)?;
    let mut writer = Writer {
        prose: &prose,
        out: String::with_capacity(xml.len() / 2),
        open: Vec::new(),
        inside_prose: 0,
    };
    let mut reader = Reader::from_str(xml);
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => writer.open(&element),
            Event::Empty(element) => {
                writer.open(&element);
                writer.close();
            }
            Event::End(_) => writer.close(),
            Event::Text(text) => writer.text(&text),
            Event::CData(text) => writer.text(&text),
            Event::GeneralRef(name) => writer.text(&reference(&name)),
            Event::Eof => break,
            _ => {}
        }
        if writer.out.len() as u64 > most {
            return None;
        }
    }
    writer.out.truncate(writer.out.trim_end().len());
    Some((writer.out, prose.is_empty()))
}

/// The character that a reference stands for. One that the document declares itself stays as it is
/// written, so nothing is expanded.
fn reference(name: &str) -> String {
    let known = entity(name);
    if known.is_empty() { format!("&{name};") } else { known }
}

/// The names of elements that hold text beside other elements, somewhere in the document.
fn prose_elements(xml: &str) -> Option<HashSet<String>> {
    /// What an open element holds so far.
    struct Open {
        name: String,
        text: bool,
        elements: bool,
    }
    let mut prose = HashSet::new();
    let mut open: Vec<Open> = Vec::new();
    let mut reader = Reader::from_str(xml);
    let says = |open: &mut Vec<Open>, text: &str| {
        if let Some(last) = open.last_mut() {
            last.text |= !text.trim().is_empty();
        }
    };
    let mut any = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) => {
                any = true;
                if let Some(last) = open.last_mut() {
                    last.elements = true;
                }
                let name = element.local_name().as_ref().to_owned();
                open.push(Open { name, text: false, elements: false });
                if open.len() > MAX_DEPTH {
                    return None;
                }
            }
            Event::Empty(_) => {
                any = true;
                if let Some(last) = open.last_mut() {
                    last.elements = true;
                }
            }
            Event::End(_) => {
                if let Some(closed) = open.pop().filter(|closed| closed.text && closed.elements) {
                    prose.insert(closed.name);
                }
            }
            Event::Text(text) => says(&mut open, &text),
            Event::CData(text) => says(&mut open, &text),
            Event::GeneralRef(_) => says(&mut open, "&"),
            Event::Eof => return (any && open.is_empty()).then_some(prose),
            _ => {}
        }
    }
}

/// An element whose text is being written.
struct Element {
    name: String,
    attributes: String,
    text: String,
    has_elements: bool,
}

struct Writer<'a> {
    prose: &'a HashSet<String>,
    out: String,
    open: Vec<Element>,
    /// How many of the open elements are inside of prose.
    inside_prose: usize,
}

impl Writer<'_> {
    fn open(&mut self, element: &BytesStart<'_>) {
        if self.inside_prose > 0 {
            self.inside_prose += 1;
            return;
        }
        if let Some(parent) = self.open.last_mut()
            && !std::mem::replace(&mut parent.has_elements, true)
        {
            self.head();
        }
        let name = element.local_name().as_ref().to_owned();
        self.inside_prose = usize::from(self.prose.contains(&name));
        let attributes = attributes(element);
        self.open.push(Element { name, attributes, text: String::new(), has_elements: false });
    }

    /// Writes the line of an element that turns out to hold others.
    fn head(&mut self) {
        let depth = self.open.len() - 1;
        let Some(element) = self.open.last() else { return };
        let line = format!("{}{}{}:\n", "  ".repeat(depth), element.name, element.attributes);
        if depth <= RECORD_DEPTH && !self.out.is_empty() {
            self.blank_line();
        }
        self.out.push_str(&line);
    }

    fn blank_line(&mut self) {
        if !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(element) = self.open.last_mut() {
            element.text.push_str(text);
        }
    }

    fn close(&mut self) {
        if self.inside_prose > 1 {
            self.inside_prose -= 1;
            // Words of neighbours do not run together, and what is inside of a word stays there.
            return;
        }
        let Some(element) = self.open.pop() else { return };
        let depth = self.open.len();
        let text = element.text.split_whitespace().collect::<Vec<_>>().join(" ");
        if std::mem::take(&mut self.inside_prose) == 1 {
            if !text.is_empty() {
                self.blank_line();
                self.out.push_str(&text);
                self.out.push_str("\n\n");
            }
        } else if !element.has_elements {
            if text.is_empty() && element.attributes.is_empty() {
                return;
            }
            let space = if text.is_empty() { "" } else { " " };
            self.out.push_str(&"  ".repeat(depth));
            self.out.push_str(&format!("{}{}:{space}{text}\n", element.name, element.attributes));
        }
    }
}

/// The attributes in brackets. Those that only name schemas say nothing.
fn attributes(element: &BytesStart<'_>) -> String {
    let named = element.attributes().flatten().filter(|attribute| {
        !attribute.key.as_ref().starts_with("xmlns") && !attribute.key.as_ref().starts_with("xsi:")
    });
    let written: Vec<String> = named
        .map(|attribute| {
            let value = unescaped(&attribute.value);
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("{}={value}", attribute.key.local_name().as_ref())
        })
        .collect();
    if written.is_empty() { String::new() } else { format!(" ({})", written.join(", ")) }
}

fn unescaped(value: &str) -> String {
    let mut parts = value.split('&');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(';') {
            Some((name, rest)) => {
                text.push_str(&reference(name));
                text.push_str(rest);
            }
            None => {
                text.push('&');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn values_become_lines_and_records_stand_apart() {
        let xml = "<?xml version='1.0'?><!-- no --><gauges xmlns='x' river='A &amp; B'><gauge id='1'><name>Mill</name>\
            <level unit='m'>3.1</level><empty/></gauge><gauge id='2'><name>We&#105;r</name></gauge></gauges>";
        let expected = "gauges (river=A & B):\n\n  gauge (id=1):\n    name: Mill\n    level (unit=m): 3.1\n\n  \
            gauge (id=2):\n    name: Weir";
        assert_eq!(to_text(xml, 1 << 20).unwrap(), (expected.to_owned(), true));
    }

    #[test]
    fn prose_keeps_its_sentences() {
        let xml = "<book><title>Rain</title><para>It <b>rains</b> &amp; rains\n on <i>the</i> hills.</para>\
            <para>Always.</para></book>";
        let (text, is_lines) = to_text(xml, 1 << 20).unwrap();
        assert_eq!(text, "book:\n  title: Rain\n\nIt rains & rains on the hills.\n\nAlways.");
        assert!(!is_lines);
    }

    #[test]
    fn nothing_is_expanded_and_what_is_not_well_formed_is_left_alone() {
        let bomb = "<!DOCTYPE a [<!ENTITY b 'bbbbbbbb'><!ENTITY c '&b;&b;'>]><a>&c;</a>";
        assert_eq!(to_text(bomb, 1 << 20).unwrap().0, "a: &c;");
        for broken in ["<a><b></a>", "<a>", "no", "", "<a>&lt</a"] {
            assert_eq!(to_text(broken, 1 << 20), None, "{broken}");
        }
        assert_eq!(to_text(&format!("{}x{}", "<a>".repeat(200), "</a>".repeat(200)), 1 << 20), None);
        assert_eq!(to_text(&format!("<a>{}</a>", "<b>x</b>".repeat(50)), 100), None);
    }
}
