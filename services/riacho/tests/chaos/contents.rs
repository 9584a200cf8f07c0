//! The files of a run, made from a seed each, so that they need not be kept.

use std::io::{Cursor, Write};

use zip::{ZipWriter, write::SimpleFileOptions};

use crate::schedule::Dice;

/// What a file is, or seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Markdown,
    Html,
    Csv,
    Mail,
    Docx,
}

impl Format {
    pub(crate) const ALL: [Format; 6] =
        [Format::Text, Format::Markdown, Format::Html, Format::Csv, Format::Mail, Format::Docx];

    pub(crate) const fn extension(self) -> &'static str {
        match self {
            Format::Text => "txt",
            Format::Markdown => "md",
            Format::Html => "html",
            Format::Csv => "csv",
            Format::Mail => "eml",
            Format::Docx => "docx",
        }
    }
}

/// What is to become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ready.
    Good,
    /// Failed: nothing in it.
    Blank,
    /// Failed: no format that is known.
    Binary,
    /// Failed: a document that breaks off.
    Torn,
    /// Failed: its parser is at it for minutes.
    Hanging,
    /// Failed: its parser needs more memory than it may have.
    Growing,
    /// Failed: it hangs, and whoever runs it is killed.
    Deadly,
}

/// The first mark of a file that stands in a text.
pub(crate) fn mark_in(text: &str) -> Option<&str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
        .find(|word| word.len() == 15 && word.starts_with("zq") && word.ends_with('x'))
}

/// A file, before it is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    pub(crate) format: Format,
    pub(crate) paragraphs: usize,
}

const WORDS: [&str; 48] = [
    "barge",
    "lock",
    "river",
    "gauge",
    "weir",
    "sluice",
    "keeper",
    "morning",
    "report",
    "level",
    "heron",
    "station",
    "flood",
    "channel",
    "bridge",
    "pump",
    "valve",
    "record",
    "engineer",
    "maintenance",
    "seasonal",
    "upstream",
    "downstream",
    "sediment",
    "measured",
    "observed",
    "repaired",
    "opened",
    "closed",
    "during",
    "after",
    "before",
    "north",
    "south",
    "eastern",
    "western",
    "concrete",
    "timber",
    "steel",
    "gate",
    "chamber",
    "traffic",
    "vessel",
    "cargo",
    "inspection",
    "winter",
    "summer",
    "quarterly",
];

impl Content {
    pub(crate) fn is_good(&self) -> bool {
        self.kind == Kind::Good
    }

    /// The reasons that it may fail for.
    pub(crate) fn reasons(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Good => &[],
            Kind::Blank => &["empty"],
            Kind::Binary => &["unsupported"],
            Kind::Torn => &["corrupt", "unsupported"],
            Kind::Hanging => &["timeout"],
            // On a machine that is busy enough, time is up first.
            Kind::Growing => &["memory", "timeout"],
            Kind::Deadly => &["poison"],
        }
    }

    /// A word that stands in each paragraph of this file and in no other file.
    pub(crate) fn mark(&self) -> String {
        let letter =
            |nibble: u32| char::from(b'a' + u8::try_from((self.seed >> (4 * nibble)) & 15).unwrap_or(0));
        format!("zq{}x", (0..12).map(letter).collect::<String>())
    }

    /// What each paragraph begins with.
    pub(crate) fn beginning(&self, paragraph: usize) -> String {
        format!("{} part {paragraph} of", self.mark())
    }

    pub(crate) fn filename(&self) -> String {
        let extension = match self.kind {
            Kind::Torn | Kind::Growing => "docx",
            Kind::Hanging | Kind::Deadly => "html",
            _ => self.format.extension(),
        };
        format!("{}.{extension}", self.mark())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self.kind {
            Kind::Good => self.write(self.format),
            // The seed in white space, which keeps two of them apart.
            Kind::Blank => (0..64).map(|bit| if self.seed >> bit & 1 == 1 { b'\t' } else { b' ' }).collect(),
            Kind::Binary => self.noise(),
            Kind::Torn => {
                let whole = self.write(Format::Docx);
                whole[..whole.len() / 2].to_vec()
            }
            Kind::Hanging | Kind::Deadly => self.endless().into_bytes(),
            Kind::Growing => docx(&vec![self.mark(); 250_000]),
        }
    }

    /// A page that keeps the parser busy for minutes: text that a table does not take is moved before it, and each
    /// piece looks for the table among all those that were moved earlier.
    fn endless(&self) -> String {
        format!("<p>{}</p><table>{}", self.mark(), "<b>x</b>".repeat(100_000))
    }

    fn noise(&self) -> Vec<u8> {
        let mut dice = Dice::new(self.seed);
        let mut bytes = b"\x00\xff\xfe\x00\x01".to_vec();
        for _ in 0..400 {
            bytes.extend(dice.next().to_le_bytes());
        }
        bytes
    }

    fn texts(&self) -> Vec<String> {
        let mut dice = Dice::new(self.seed);
        (0..self.paragraphs)
            .map(|paragraph| {
                let words: Vec<&str> = (0..dice.between(20, 70)).map(|_| *dice.pick(&WORDS)).collect();
                format!("{} the {}.", self.beginning(paragraph), words.join(" "))
            })
            .collect()
    }

    fn write(&self, format: Format) -> Vec<u8> {
        let texts = self.texts();
        match format {
            Format::Text => texts.join("\n\n").into_bytes(),
            Format::Markdown => format!("# A report\n\n{}\n", texts.join("\n\n## More\n\n")).into_bytes(),
            Format::Html => {
                let body: String = texts.iter().map(|text| format!("<p>{text}</p>\n")).collect();
                format!("<!DOCTYPE html>\n<html><head><title>A report</title></head><body>\n{body}</body></html>\n")
                    .into_bytes()
            }
            Format::Csv => {
                let rows: String =
                    texts.iter().enumerate().map(|(row, text)| format!("{row},\"{text}\",open\n")).collect();
                format!("number,remark,state\n{rows}").into_bytes()
            }
            Format::Mail => format!(
                "From: Keeper <keeper@example.org>\r\nTo: Office <office@example.org>\r\nSubject: A report\r\n\
                 Date: Mon, 2 Mar 2026 08:00:00 +0000\r\nMIME-Version: 1.0\r\n\
                 Content-Type: text/plain; charset=utf-8\r\n\r\n{}\r\n",
                texts.join("\r\n\r\n")
            )
            .into_bytes(),
            Format::Docx => docx(&texts),
        }
    }
}

fn docx(paragraphs: &[String]) -> Vec<u8> {
    const TYPES: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"#;
    const RELATIONS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>"#;
    let body: String =
        paragraphs.iter().map(|text| format!("<w:p><w:r><w:t>{text}</w:t></w:r></w:p>")).collect();
    let document = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>{body}</w:body></w:document>"#
    );
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in
        [("[Content_Types].xml", TYPES), ("_rels/.rels", RELATIONS), ("word/document.xml", &document)]
    {
        writer.start_file(name, SimpleFileOptions::default()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_gives_the_same_bytes_each_time_and_no_two_share_their_mark() {
        for format in Format::ALL {
            let content = Content { seed: 9, kind: Kind::Good, format, paragraphs: 3 };
            assert_eq!(content.bytes(), content.bytes(), "{format:?}");
            assert_ne!(content.mark(), Content { seed: 10, ..content.clone() }.mark());
        }
    }
}
