//! The type of a file, told from its bytes.
//!
//! The name is asked only where the bytes leave a choice between kinds of text.

use std::io::Cursor;

use file_format::{FileFormat, Kind};

/// What a file is, as far as the parsers care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the formats' own
pub enum FileType {
    Empty,
    Pdf,
    Docx,
    Pptx,
    Xlsx,
    Doc,
    Ppt,
    Xls,
    /// OpenDocument text, presentation or spreadsheet.
    OpenDocument(&'static str),
    Epub,
    Rtf,
    /// A message of Outlook.
    Msg,
    /// An Office file behind a password.
    EncryptedOffice,
    /// A picture of a kind whose text can be recognised.
    Picture,
    /// Something known that holds no text for us, by its name.
    Other(&'static str),
    /// Bytes to be decoded; see [`TextType`].
    Text,
}

/// The kinds of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextType {
    /// An e-mail message with its headers.
    Eml,
    /// A web page.
    Html,
    /// Rows of fields between delimiters.
    Csv(char),
    /// Markdown.
    Markdown,
    /// XML that is no web page.
    Xml,
    /// JSON, or what looks like it.
    Json,
    /// A program or a configuration, by its media type.
    Code(&'static str),
    /// Anything else.
    Plain,
}

impl TextType {
    /// The media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            TextType::Eml => "message/rfc822",
            TextType::Html => "text/html",
            TextType::Csv('\t') => "text/tab-separated-values",
            TextType::Csv(_) => "text/csv",
            TextType::Markdown => "text/markdown",
            TextType::Xml => "application/xml",
            TextType::Json => "application/json",
            TextType::Code(media_type) => media_type,
            TextType::Plain => "text/plain",
        }
    }
}

/// Tells the type of a file from its bytes; also the media type where it is not a kind of text.
#[must_use]
pub fn file_type(bytes: &[u8]) -> (FileType, String) {
    let format = FileFormat::from_bytes(bytes);
    let detected = match format {
        FileFormat::Empty => FileType::Empty,
        FileFormat::PortableDocumentFormat => FileType::Pdf,
        FileFormat::OfficeOpenXmlDocument => FileType::Docx,
        FileFormat::OfficeOpenXmlPresentation => FileType::Pptx,
        FileFormat::OfficeOpenXmlSpreadsheet => FileType::Xlsx,
        FileFormat::MicrosoftWordDocument => FileType::Doc,
        FileFormat::MicrosoftPowerpointPresentation => FileType::Ppt,
        FileFormat::MicrosoftExcelSpreadsheet => FileType::Xls,
        FileFormat::OpendocumentText => FileType::OpenDocument("text"),
        FileFormat::OpendocumentPresentation => FileType::OpenDocument("presentation"),
        FileFormat::OpendocumentSpreadsheet => FileType::OpenDocument("spreadsheet"),
        FileFormat::ElectronicPublication => FileType::Epub,
        FileFormat::RichTextFormat => FileType::Rtf,
        _ if begins_like_pdf(bytes) => FileType::Pdf,
        _ if bytes.starts_with(b"PK\x03\x04") => package(bytes).unwrap_or(FileType::Other("a ZIP archive")),
        _ if is_compound(bytes) => compound(bytes),
        _ if is_text_kind(format) => FileType::Text,
        _ if is_picture(format) => FileType::Picture,
        _ => other(format, bytes),
    };
    (detected, detected.media_type(&format).to_owned())
}

impl FileType {
    fn media_type(self, format: &FileFormat) -> &str {
        match self {
            FileType::Empty => "application/x-empty",
            FileType::Pdf => "application/pdf",
            FileType::Docx => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            FileType::Pptx => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
            FileType::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            FileType::Doc => "application/msword",
            FileType::Ppt => "application/vnd.ms-powerpoint",
            FileType::Xls => "application/vnd.ms-excel",
            FileType::OpenDocument("text") => "application/vnd.oasis.opendocument.text",
            FileType::OpenDocument("presentation") => "application/vnd.oasis.opendocument.presentation",
            FileType::OpenDocument(_) => "application/vnd.oasis.opendocument.spreadsheet",
            FileType::Epub => "application/epub+zip",
            FileType::Rtf => "application/rtf",
            FileType::Msg => "application/vnd.ms-outlook",
            FileType::EncryptedOffice => "application/x-ole-storage",
            FileType::Picture | FileType::Other(_) => format.media_type(),
            FileType::Text => "text/plain",
        }
    }
}

/// Readers accept a PDF whose header is not at the very start.
fn begins_like_pdf(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(1024)].windows(5).any(|window| window == b"%PDF-")
}

fn is_compound(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1])
}

/// Looks into a compound file, the container of the older Office formats.
fn compound(bytes: &[u8]) -> FileType {
    let Ok(file) = office_oxide::cfb::CfbReader::new(Cursor::new(bytes)) else {
        return FileType::Other("a damaged compound file");
    };
    let has = |name: &str| file.has_stream(name);
    if has("EncryptedPackage") {
        FileType::EncryptedOffice
    } else if has("WordDocument") {
        FileType::Doc
    } else if has("Workbook") || has("Book") {
        FileType::Xls
    } else if has("PowerPoint Document") {
        FileType::Ppt
    } else if file.has_root_entry("__properties_version1.0") {
        FileType::Msg
    } else {
        FileType::Other("a compound file of an unknown kind")
    }
}

/// Looks into a package whose parts are not in the usual order.
fn package(bytes: &[u8]) -> Option<FileType> {
    let archive = zip::ZipArchive::new(Cursor::new(bytes)).ok()?;
    let has = |name: &str| archive.index_for_name(name).is_some();
    if has("word/document.xml") {
        Some(FileType::Docx)
    } else if has("ppt/presentation.xml") {
        Some(FileType::Pptx)
    } else if has("xl/workbook.xml") {
        Some(FileType::Xlsx)
    } else if has("META-INF/container.xml") {
        Some(FileType::Epub)
    } else if has("content.xml") && has("META-INF/manifest.xml") {
        Some(FileType::OpenDocument("text"))
    } else {
        None
    }
}

/// Pictures that the recognition of text reads.
fn is_picture(format: FileFormat) -> bool {
    matches!(
        format.media_type(),
        "image/png" | "image/apng" | "image/jpeg" | "image/tiff" | "image/bmp" | "image/gif" | "image/webp"
    )
}

fn is_text_kind(format: FileFormat) -> bool {
    let media = format.media_type();
    matches!(format, FileFormat::PlainText | FileFormat::ArbitraryBinaryData)
        || media.starts_with("text/")
        || media.ends_with("+xml")
        || media.ends_with("/xml")
        || media.ends_with("json")
        || matches!(
            format.kind(),
            Kind::Other | Kind::Metadata | Kind::Subtitle | Kind::Playlist | Kind::Geospatial
        )
}

fn other(format: FileFormat, bytes: &[u8]) -> FileType {
    // Some signatures are a few letters that prose can begin with.
    if format.kind() != Kind::Archive
        && std::str::from_utf8(&bytes[..bytes.len().min(512)]).is_ok_and(|t| !t.contains('\0'))
    {
        return FileType::Text;
    }
    FileType::Other(match format.kind() {
        Kind::Archive => "an archive",
        Kind::Image => "a picture of a kind that is not read",
        Kind::Audio => "a sound recording",
        Kind::Video => "a video",
        Kind::Executable => "a program",
        Kind::Font => "a font",
        Kind::Database => "a database",
        Kind::Compressed => "a compressed file",
        _ => "a binary file",
    })
}

/// Tells the kind of a text; `filename` decides only where the text leaves a choice.
#[must_use]
pub fn text_type(text: &str, filename: &str) -> TextType {
    let text = text.trim_start();
    let extension = filename.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let named = |names: &[&str]| extension.as_deref().is_some_and(|extension| names.contains(&extension));
    if looks_like_mail(text) {
        return TextType::Eml;
    }
    if looks_like_html(text) {
        return TextType::Html;
    }
    if text.starts_with("<?xml") {
        return TextType::Xml;
    }
    if named(&["html", "htm", "xhtml"]) && text.starts_with('<') {
        return TextType::Html;
    }
    if named(&["eml"]) && first_header(text).is_some() {
        return TextType::Eml;
    }
    let json = named(&["json", "jsonl", "ndjson", "geojson", "ipynb", "webmanifest"]);
    if json && text.starts_with(['{', '[']) || looks_like_json(text) {
        return TextType::Json;
    }
    if let Some(media_type) = code(text, extension.as_deref().unwrap_or(filename)) {
        return TextType::Code(media_type);
    }
    if named(&["md", "markdown", "mdown", "mkd"]) {
        return TextType::Markdown;
    }
    if let Some(delimiter) = delimiter(text, named(&["csv", "tsv", "tab"])) {
        return TextType::Csv(delimiter);
    }
    if named(&["xml", "svg"]) && text.starts_with('<') {
        return TextType::Xml;
    }
    let prose_name = extension.is_none() || named(&["txt", "text", "bin", "dat"]);
    if prose_name && looks_like_markdown(text) { TextType::Markdown } else { TextType::Plain }
}

/// An object or a list from the first to the last character. Whether it is one, its parser finds out.
fn looks_like_json(text: &str) -> bool {
    let inside = |open: char, close: char| {
        let rest = text.strip_prefix(open).map(|rest| rest.trim_start());
        rest.is_some_and(|rest| rest.starts_with(['"', '{', '}', '[', ']']))
            && text.trim_end().ends_with(close)
    };
    inside('{', '}') || inside('[', ']')
}

/// The media type of a program or a configuration: its name's ending tells, or its first line.
fn code(text: &str, ending: &str) -> Option<&'static str> {
    let by_name = match ending {
        "py" | "pyi" => "text/x-python",
        "rs" => "text/x-rust",
        "js" | "mjs" | "cjs" | "jsx" => "text/javascript",
        "ts" | "tsx" => "text/x-typescript",
        "java" => "text/x-java",
        "kt" | "kts" => "text/x-kotlin",
        "scala" => "text/x-scala",
        "swift" => "text/x-swift",
        "go" => "text/x-go",
        "c" | "h" => "text/x-c",
        "cc" | "cpp" | "cxx" | "hpp" | "hh" => "text/x-c++",
        "cs" => "text/x-csharp",
        "rb" => "text/x-ruby",
        "php" => "text/x-php",
        "pl" | "pm" => "text/x-perl",
        "lua" => "text/x-lua",
        "r" => "text/x-r",
        "hs" => "text/x-haskell",
        "ex" | "exs" => "text/x-elixir",
        "erl" => "text/x-erlang",
        "clj" => "text/x-clojure",
        "sh" | "bash" | "zsh" => "text/x-shellscript",
        "sql" => "text/x-sql",
        "css" | "scss" | "less" => "text/css",
        "proto" => "text/x-protobuf",
        "tf" | "hcl" => "text/x-hcl",
        "yaml" | "yml" => "application/yaml",
        "toml" => "application/toml",
        "ini" | "cfg" | "conf" | "properties" | "env" => "text/x-ini",
        "Makefile" | "mk" => "text/x-makefile",
        "Dockerfile" => "text/x-dockerfile",
        _ => "",
    };
    if !by_name.is_empty() {
        return Some(by_name);
    }
    let first = text.strip_prefix("#!").and_then(|rest| rest.lines().next())?;
    let runs = |program: &str| first.contains(program);
    [
        ("python", "text/x-python"),
        ("node", "text/javascript"),
        ("ruby", "text/x-ruby"),
        ("perl", "text/x-perl"),
    ]
    .into_iter()
    .chain([("sh", "text/x-shellscript")])
    .find_map(|(program, media_type)| runs(program).then_some(media_type))
}

/// A header line's name, where the text begins with one.
fn first_header(text: &str) -> Option<&str> {
    let (name, _) = text.lines().next()?.split_once(':')?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (!name.is_empty() && name.len() <= 60 && name.bytes().all(legal)).then_some(name)
}

/// Two headers of mail among the header lines at the start.
fn looks_like_mail(text: &str) -> bool {
    const KNOWN: [&str; 14] = [
        "from",
        "to",
        "subject",
        "date",
        "received",
        "mime-version",
        "message-id",
        "return-path",
        "delivered-to",
        "content-type",
        "cc",
        "reply-to",
        "sender",
        "x-mailer",
    ];
    let mut known = 0;
    let mut certain = false;
    for (i, line) in text.lines().take(200).enumerate() {
        // The first line of a mailbox is the envelope's.
        if line.starts_with([' ', '\t']) || i == 0 && line.starts_with("From ") {
            continue;
        }
        let Some(name) = first_header(line) else { break };
        let name = name.to_ascii_lowercase();
        known += usize::from(KNOWN.contains(&name.as_str()));
        certain |=
            matches!(name.as_str(), "mime-version" | "message-id" | "received" | "return-path" | "from");
    }
    certain && known >= 2
}

fn looks_like_html(text: &str) -> bool {
    let mut text = text;
    if text.starts_with("<?xml") {
        text = text.split_once("?>").map_or(text, |(_, rest)| rest);
    }
    while let Some(rest) = text.trim_start().strip_prefix("<!--") {
        text = rest.split_once("-->").map_or("", |(_, rest)| rest);
    }
    let start: String = text.trim_start().chars().take(64).collect::<String>().to_ascii_lowercase();
    const STARTS: [&str; 16] = [
        "<!doctype html",
        "<html",
        "<head",
        "<body",
        "<title",
        "<table",
        "<div",
        "<p>",
        "<h1",
        "<h2",
        "<meta",
        "<style",
        "<script",
        "<ul>",
        "<span",
        "<article",
    ];
    STARTS.iter().any(|tag| start.starts_with(tag))
}

/// The delimiter that gives all of the first rows the same number of fields.
fn delimiter(text: &str, named: bool) -> Option<char> {
    let mut sample: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(41).collect();
    if sample.len() > 40 {
        sample.pop();
    }
    let (rows, least) = if named { (1, 1) } else { (3, 2) };
    if sample.len() < rows {
        return None;
    }
    let fields = |line: &str, delimiter: char| {
        let mut quoted = false;
        line.chars()
            .filter(|c| {
                quoted ^= *c == '"';
                *c == delimiter && !quoted
            })
            .count()
    };
    let even = [',', ';', '\t', '|'].into_iter().filter_map(|delimiter| {
        let counts: Vec<usize> = sample.iter().map(|line| fields(line, delimiter)).collect();
        let first = *counts.first()?;
        (first >= least && counts.iter().all(|count| *count == first)).then_some((first, delimiter))
    });
    let best = even.max_by_key(|(count, _)| *count).map(|(_, delimiter)| delimiter);
    if named {
        // A ragged file is still what its name says; the delimiter that occurs most is taken.
        let most = [',', ';', '\t', '|']
            .into_iter()
            .max_by_key(|c| (sample.iter().map(|l| fields(l, *c)).sum::<usize>(), *c == ','));
        return best.or(most);
    }
    // Prose has commas too, but not the same number on every line; a Markdown table is no CSV.
    best.filter(|delimiter| *delimiter != '|')
}

fn looks_like_markdown(text: &str) -> bool {
    let lines = || text.lines().take(400);
    let headings = lines().filter(|line| {
        let level = line.bytes().take_while(|b| *b == b'#').count();
        (2..=6).contains(&level) && line[level..].starts_with(' ')
    });
    let fences = lines().filter(|line| line.starts_with("```")).count();
    headings.count() >= 2 || fences >= 2
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn kind(text: &str, filename: &str) -> TextType {
        text_type(text, filename)
    }

    #[test]
    fn files_are_told_by_their_bytes() {
        let cases: [(&[u8], FileType); 7] = [
            (b"", FileType::Empty),
            (b"%PDF-1.7\n", FileType::Pdf),
            (b"junk before\n%PDF-1.4\n", FileType::Pdf),
            (b"{\\rtf1\\ansi a}", FileType::Rtf),
            (b"\x89PNG\r\n\x1a\n", FileType::Picture),
            (b"Just words.", FileType::Text),
            (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", FileType::Other("a program")),
        ];
        for (bytes, expected) in cases {
            assert_eq!(file_type(bytes).0, expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn kinds_of_text_are_told_by_their_shape() {
        let cases = [
            ("From: a@b\nSubject: x\n\nbody", "a.txt", TextType::Eml),
            ("From a@b Mon Jan 1\nFrom: a@b\nTo: c@d\n\nbody", "inbox", TextType::Eml),
            ("Subject: a letter\nDear all", "a.txt", TextType::Plain),
            ("<!-- x --><!DOCTYPE html><p>a", "a.txt", TextType::Html),
            ("<?xml version='1.0'?><note/>", "a.txt", TextType::Xml),
            ("<?xml version='1.0'?><html/>", "a.txt", TextType::Html),
            ("a,b,c\n1,2,3\n4,5,6\n", "a.txt", TextType::Csv(',')),
            ("a;b\n1;2\n", "a.csv", TextType::Csv(';')),
            ("a;b\n1;2\n", "a.txt", TextType::Plain),
            ("Rain, snow.\nWind, sun.\nIce, fog.", "a.txt", TextType::Plain),
            ("## One\ntext\n## Two\n", "a", TextType::Markdown),
            ("# a comment\nx = 1\n", "a.py", TextType::Code("text/x-python")),
            ("#!/bin/sh\nset -e\n", "run", TextType::Code("text/x-shellscript")),
            ("all:\n\techo\n", "Makefile", TextType::Code("text/x-makefile")),
            ("{\"a\": 1}", "a.json", TextType::Json),
            (" [{\"a\": 1}]\n", "answer", TextType::Json),
            ("[see below]", "a.txt", TextType::Plain),
            ("{placeholder} and text", "a.txt", TextType::Plain),
        ];
        for (text, filename, expected) in cases {
            assert_eq!(kind(text, filename), expected, "{filename}: {text}");
        }
    }

    #[test]
    fn the_name_does_not_overrule_the_text() {
        assert_eq!(kind("<html><body>x", "a.csv"), TextType::Html);
        assert_eq!(kind("From: a@b\nTo: c@d\nDate: x\n\ny", "a.md"), TextType::Eml);
    }
}
