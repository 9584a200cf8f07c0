//! PDF through PDFium: the lines of each page with their places and sizes.
//!
//! PDFium has one lock and global state, so there is one document at a time in a process.

use std::path::Path;

use pdfium_render::prelude as pdfium;
use riacho_domain::ReasonCode;

use super::{
    Outside, Parsed, Tools,
    pdf_columns::{self, Gap, LEAST_GAP},
    pdf_layout::{self, Line, Page},
    pdf_pictures::Pictures,
};
use crate::extracted::{Failure, Missing};

/// The PDFium library, loaded.
pub struct Pdfium(pdfium::Pdfium);

impl Pdfium {
    /// Loads the library from a file. It can be loaded once in a process.
    ///
    /// # Errors
    ///
    /// When the file is missing or no PDFium of a fitting version.
    pub fn load(library: &Path) -> Result<Self, String> {
        let bindings = pdfium::Pdfium::bind_to_library(library).map_err(|error| format!("{error:?}"))?;
        Ok(Self(pdfium::Pdfium::new(bindings)))
    }
}

/// Reads a document page by page. A page that cannot be read is a hole in the document, not the end of it.
pub(super) fn parse(bytes: &[u8], tools: &Tools<'_>, outside: &mut dyn Outside) -> Result<Parsed, Failure> {
    let library = tools.pdfium.ok_or_else(|| {
        let message = "PDF files cannot be read: the PDFium library is not installed";
        Failure::new(ReasonCode::Unsupported, message)
    })?;
    let document = library.0.load_pdf_from_byte_slice(bytes, None).map_err(|error| open_failure(&error))?;
    let pages = document.pages();
    let total = u32::try_from(pages.len()).unwrap_or(0);
    if total > tools.limits.max_pages {
        let message = format!("the document has {total} pages; at most {} are taken", tools.limits.max_pages);
        return Err(Failure::new(ReasonCode::TooLarge, message));
    }
    let mut pictures = Pictures::new(tools.rendering);
    let mut read = Vec::new();
    let mut missing = Vec::new();
    let mut text_bytes = 0;
    for (index, number) in (0..pages.len()).zip(1..) {
        outside.progress(number - 1, total);
        let page = match tools.skip.iter().find(|skip| skip.has(number)) {
            Some(skip) => Err(skip.failure.clone()),
            None => pages.get(index).map_err(|_| damaged_page()).and_then(|page| {
                let lines = page.text().map(|text| page_lines(&text)).unwrap_or_default();
                pictures.read(&page, Page::Printed(lines), outside)
            }),
        };
        let page = page.unwrap_or_else(|failure| {
            Missing::add(&mut missing, number, failure);
            Page::Printed(Vec::new())
        });
        text_bytes += page.bytes();
        if text_bytes > tools.limits.max_text_bytes {
            return Err(super::text_too_large(tools.limits));
        }
        read.push(page);
    }
    outside.progress(total, total);
    if text_bytes == 0 {
        let empty = || Failure::new(ReasonCode::Empty, "the PDF has no text");
        return Err(Missing::most(&missing).unwrap_or_else(empty));
    }
    let mut parsed = pdf_layout::assemble(&read);
    parsed.outline.missing = missing;
    Ok(parsed)
}

fn damaged_page() -> Failure {
    Failure::new(ReasonCode::Corrupt, "the page is damaged: it cannot be read")
}

fn open_failure(error: &pdfium::PdfiumError) -> Failure {
    use pdfium::{PdfiumError::PdfiumLibraryInternalError, PdfiumInternalError as Internal};
    match error {
        PdfiumLibraryInternalError(Internal::PasswordError | Internal::SecurityError) => {
            Failure::new(ReasonCode::Encrypted, "the PDF is protected with a password")
        }
        _ => Failure::new(ReasonCode::Corrupt, "the PDF is damaged: its structure cannot be read"),
    }
}

/// A line of which characters are still read.
#[derive(Default)]
struct OpenLine {
    text: String,
    /// The first, middle and last visible character tell where the line is and how large.
    visible: Vec<usize>,
    /// Words before the one that is being read, and whether a space stands behind its last character.
    words: usize,
    spaced: bool,
    /// Whether its gaps are looked for.
    measured: bool,
    gaps: Vec<Gap>,
}

impl OpenLine {
    fn push(&mut self, chars: &pdfium::PdfPageTextChars<'_>, index: usize, c: char) {
        self.text.push(c);
        if c.is_whitespace() {
            self.spaced = true;
            return;
        }
        if let Some(last) = self.visible.last()
            && std::mem::take(&mut self.spaced)
            && self.measured
        {
            self.words += 1;
            let place = |index: usize| chars.get(index).ok().and_then(|c| c.origin_x().ok()).map(|x| x.value);
            if let (Some(from), Some(to)) = (place(*last), place(index))
                && to - from > LEAST_GAP
            {
                self.gaps.push(Gap { words: self.words, from, to });
            }
        }
        self.spaced = false;
        self.visible.push(index);
    }

    fn end(&mut self, chars: &pdfium::PdfPageTextChars<'_>) -> Option<Line> {
        let Self { text, visible, gaps, .. } = std::mem::take(self);
        let (first, last) = (visible.first()?, visible.last()?);
        let middle = visible[visible.len() / 2];
        let bounds = |index: usize| chars.get(index).ok().and_then(|c| c.loose_bounds().ok());
        let (start, end) = (bounds(*first)?, bounds(*last)?);
        let (size, bold) = chars.get(middle).map_or((0.0, false), |c| {
            let weight = c.font_weight();
            let bold = matches!(
                weight,
                Some(
                    pdfium::PdfFontWeight::Weight600
                        | pdfium::PdfFontWeight::Weight700Bold
                        | pdfium::PdfFontWeight::Weight800
                        | pdfium::PdfFontWeight::Weight900
                )
            );
            (c.scaled_font_size().value, bold)
        });
        // The box of a character depends on its font; the base line does not.
        let base =
            chars.get(*first).ok().and_then(|c| c.origin_y().ok()).map_or(start.bottom().value, |y| y.value);
        let line = Line::new(&text, start.left().value, end.right().value, base, size, bold);
        Some(line.with_gaps(gaps))
    }
}

/// The lines of a page in the order in which they are read.
fn page_lines(text: &pdfium::PdfPageText<'_>) -> Vec<Line> {
    let chars = text.chars();
    // Measuring gaps takes time and few pages need it, so a part of the lines tells whether to measure all.
    let lines = file_lines(&chars, pdf_columns::SAMPLED);
    if pdf_columns::may_stand_in_rows(&lines) {
        return pdf_columns::in_reading_order(file_lines(&chars, 1));
    }
    lines
}

/// The lines of a page in the order of the file; of each so many, one with its gaps.
fn file_lines(chars: &pdfium::PdfPageTextChars<'_>, sampled: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = OpenLine { measured: true, ..OpenLine::default() };
    for index in 0..chars.len() {
        let Ok(c) = chars.get(index) else { continue };
        match c.unicode_char() {
            Some('\r' | '\0' | '\u{fffe}' | '\u{ffff}') | None => continue,
            // A hyphen that breaks a word stands for the line's end too.
            Some(hyphen @ '\u{2}') => line.text.push(hyphen),
            Some('\n') => {}
            Some(c) => {
                line.push(chars, index, c);
                continue;
            }
        }
        lines.extend(line.end(chars));
        line.measured = lines.len().is_multiple_of(sampled);
    }
    lines.extend(line.end(chars));
    lines
}
