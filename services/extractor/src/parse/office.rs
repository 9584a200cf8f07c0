//! Office files, of today and of 97 to 2003, to Markdown.

use std::io::Cursor;

use office_oxide::{Document, DocumentFormat, OfficeError, ir::DocumentIR, options::ParseOptions};
use riacho_domain::ReasonCode;

use super::{Limits, Parsed, container, container::Container, markdown};
use crate::{
    detect::FileType,
    encoding,
    extracted::{Failure, PageSpan},
};

/// Reads an Office file. Slides are its pages; other kinds have none.
pub(super) fn parse(bytes: Vec<u8>, file_type: FileType, limits: &Limits) -> Result<Parsed, Failure> {
    let (format, packed) = match file_type {
        FileType::Pptx => (DocumentFormat::Pptx, true),
        FileType::Xlsx => (DocumentFormat::Xlsx, true),
        FileType::Doc => (DocumentFormat::Doc, false),
        FileType::Ppt => (DocumentFormat::Ppt, false),
        FileType::Xls => (DocumentFormat::Xls, false),
        _ => (DocumentFormat::Docx, true),
    };
    if packed {
        Container::open(&bytes, limits)?;
    }
    let options = parse_options(bytes.len() as u64, limits);
    let document =
        Document::from_reader_with(Cursor::new(bytes), format, &options).map_err(|e| failure(&e))?;
    let slides = matches!(format, DocumentFormat::Pptx | DocumentFormat::Ppt);
    let ir = document.to_ir();
    let title = ir.metadata.title.clone();
    let mut parsed = if slides { by_slide(ir) } else { Parsed::markdown(markdown(&document.to_markdown())) };
    parsed.outline.title = title;
    Ok(parsed)
}

/// The library counts what it unpacks against these, whatever the directory declares.
fn parse_options(size: u64, limits: &Limits) -> ParseOptions {
    let mut options = ParseOptions::default();
    let budget = container::budget(size, limits);
    options.limits.package_entries = usize::try_from(limits.max_packed_entries).unwrap_or(usize::MAX);
    options.limits.package_bytes = budget;
    options.limits.part_bytes = budget;
    options.limits.text_chars = usize::try_from(limits.max_text_bytes).unwrap_or(usize::MAX);
    options
}

fn markdown(text: &str) -> String {
    markdown::tidy(&encoding::clean(text.to_owned()))
}

/// Renders slide by slide, so that each is known as a page.
fn by_slide(ir: DocumentIR) -> Parsed {
    let mut text = String::new();
    let mut pages = Vec::new();
    for (number, section) in (1..).zip(ir.sections) {
        let slide = DocumentIR { metadata: ir.metadata.clone(), sections: vec![section] };
        let slide = markdown(&slide.to_markdown());
        if !text.is_empty() && !slide.is_empty() {
            text.push_str("\n\n");
        }
        let byte_start = text.len();
        text.push_str(&slide);
        pages.push(PageSpan { number, byte_start, byte_end: text.len() });
    }
    let mut parsed = Parsed::markdown(text);
    parsed.outline.pages = pages;
    parsed
}

fn failure(error: &OfficeError) -> Failure {
    let message = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| message.to_ascii_lowercase().contains(word));
    if matches!(error, OfficeError::Panic(_)) {
        Failure::new(ReasonCode::ParserCrashed, "the parser of Office files crashed on the file")
    } else if says(&["encrypt", "password"]) {
        Failure::new(ReasonCode::Encrypted, "the file is protected with a password")
    } else if says(&["limit exceeded"]) {
        Failure::new(ReasonCode::Bomb, "the file unpacks to far more than its size")
    } else if says(&["unsupported"]) {
        Failure::new(
            ReasonCode::Unsupported,
            format!("the Office file is of a kind that is not read: {message}"),
        )
    } else {
        Failure::new(ReasonCode::Corrupt, format!("the Office file is damaged: {message}"))
    }
}
