//! OpenDocument texts, presentations and spreadsheets to Markdown.

use quick_xml::{Reader, events::Event};
use riacho_domain::ReasonCode;

use super::{Limits, Parsed, container::Container, markdown};
use crate::{
    encoding,
    extracted::{Failure, PageSpan},
};

/// A cell or row may say that it repeats; spreadsheets end with a million empty ones.
const MOST_REPEATS: usize = 64;

/// Reads `content.xml`. The pages of a presentation are its slides.
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, Failure> {
    let mut container = Container::open(bytes, limits)?;
    if let Some(manifest) = container.read("META-INF/manifest.xml")?
        && String::from_utf8_lossy(&manifest).contains("encryption-data")
    {
        return Err(Failure::new(ReasonCode::Encrypted, "the file is protected with a password"));
    }
    let content = container.require("content.xml")?;
    let content = encoding::decode(&content, None)
        .ok_or_else(|| Failure::new(ReasonCode::Corrupt, "the document's XML is no text"))?
        .text;
    let mut writer = Writer::default();
    let mut reader = Reader::from_str(&content);
    reader.config_mut().check_end_names = false;
    loop {
        match reader.read_event() {
            Ok(Event::Start(element)) => writer.open(element.local_name().as_ref(), &element),
            Ok(Event::Empty(element)) => {
                writer.open(element.local_name().as_ref(), &element);
                writer.close(element.local_name().as_ref());
            }
            Ok(Event::End(element)) => writer.close(element.local_name().as_ref()),
            Ok(Event::Text(text)) => writer.push(&text),
            Ok(Event::CData(text)) => writer.push(&text),
            Ok(Event::GeneralRef(reference)) => writer.push(&entity(&reference)),
            Ok(Event::Eof) => break,
            Ok(_) => {}
            Err(error) => {
                return Err(Failure::new(
                    ReasonCode::Corrupt,
                    format!("the document's XML is damaged: {error}"),
                ));
            }
        }
    }
    Ok(writer.finish())
}

/// The character that a reference stands for.
pub(super) fn entity(name: &str) -> String {
    let code = name.strip_prefix('#').and_then(|number| match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    });
    match (code, name) {
        (Some(code), _) => char::from_u32(code).map(String::from).unwrap_or_default(),
        (None, "amp") => "&".to_owned(),
        (None, "lt") => "<".to_owned(),
        (None, "gt") => ">".to_owned(),
        (None, "quot") => "\"".to_owned(),
        (None, "apos") => "'".to_owned(),
        (None, "nbsp") => " ".to_owned(),
        _ => String::new(),
    }
}

/// The name of a sheet, as a line.
fn sheet_name(element: &quick_xml::events::BytesStart<'_>) -> Option<String> {
    let attribute = element.attributes().flatten().find(|a| a.key.local_name().as_ref() == "name")?;
    let name = quick_xml::escape::unescape(&attribute.value).ok()?.into_owned();
    Some(super::one_line(&name)).filter(|name| !name.is_empty())
}

#[derive(Default)]
struct Writer {
    out: String,
    /// The paragraph, or the table's cell, that is being read.
    line: String,
    in_paragraph: usize,
    heading: usize,
    list_depth: usize,
    item_open: bool,
    /// Rows of the open table; only the outermost table becomes one.
    rows: Vec<Vec<String>>,
    table_depth: usize,
    /// In a spreadsheet the open table is a sheet, and has a name that people see.
    in_spreadsheet: bool,
    sheet: Option<String>,
    cell_repeats: usize,
    /// Inside what is no text: styles, annotations, deleted changes.
    skipping: usize,
    pages: Vec<PageSpan>,
    page_start: Option<usize>,
}

impl Writer {
    fn open(&mut self, name: &str, element: &quick_xml::events::BytesStart<'_>) {
        let attribute = |name: &str| {
            let found = element.attributes().flatten().find(|a| a.key.local_name().as_ref() == name)?;
            found.value.parse::<usize>().ok()
        };
        match name {
            "tracked-changes" | "annotation" | "automatic-styles" => self.skipping += 1,
            _ if self.skipping > 0 => {}
            "p" | "h" => {
                self.heading =
                    if name == "h" { attribute("outline-level").unwrap_or(1).clamp(1, 6) } else { 0 };
                self.in_paragraph += 1;
            }
            "s" => self.push(&" ".repeat(attribute("c").unwrap_or(1).min(MOST_REPEATS))),
            "tab" => self.push("\t"),
            "line-break" => self.push("\n"),
            "list" => self.list_depth += 1,
            "list-item" => self.item_open = true,
            "spreadsheet" => self.in_spreadsheet = true,
            "table" => {
                self.table_depth += 1;
                if self.in_spreadsheet && self.table_depth == 1 {
                    self.sheet = sheet_name(element);
                }
            }
            "table-row" if self.table_depth == 1 => self.rows.push(Vec::new()),
            "table-cell" if self.table_depth == 1 => {
                self.cell_repeats = attribute("number-columns-repeated").unwrap_or(1).min(MOST_REPEATS);
            }
            "page" => self.page_start = Some(self.out.len()),
            _ => {}
        }
    }

    fn push(&mut self, text: &str) {
        if self.in_paragraph > 0 && self.skipping == 0 {
            self.line.push_str(text);
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "tracked-changes" | "annotation" | "automatic-styles" => {
                self.skipping = self.skipping.saturating_sub(1)
            }
            _ if self.skipping > 0 => {}
            "p" | "h" => {
                self.in_paragraph = self.in_paragraph.saturating_sub(1);
                if self.table_depth > 0 { self.line.push(' ') } else { self.end_paragraph() }
            }
            "list" => self.list_depth = self.list_depth.saturating_sub(1),
            "table-cell" if self.table_depth == 1 => {
                let cell = std::mem::take(&mut self.line);
                if let Some(row) = self.rows.last_mut() {
                    row.extend(std::iter::repeat_n(cell, self.cell_repeats));
                }
            }
            "table" => {
                self.table_depth = self.table_depth.saturating_sub(1);
                if self.table_depth == 0 {
                    self.end_table();
                }
            }
            "page" => {
                if let Some(byte_start) = self.page_start.take() {
                    let number = u32::try_from(self.pages.len() + 1).unwrap_or(u32::MAX);
                    self.pages.push(PageSpan { number, byte_start, byte_end: self.out.len() });
                }
            }
            _ => {}
        }
    }

    fn end_paragraph(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = encoding::clean(line);
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        if self.heading > 0 {
            self.out.push_str(&"#".repeat(self.heading));
            self.out.push(' ');
            self.out.push_str(&text.replace('\n', " "));
            self.out.push_str("\n\n");
        } else if self.list_depth > 0 {
            self.out.push_str(&"  ".repeat(self.list_depth - 1));
            self.out.push_str(if std::mem::take(&mut self.item_open) { "- " } else { "  " });
            self.out.push_str(text);
            self.out.push('\n');
        } else {
            if self.out.ends_with('\n') && !self.out.ends_with("\n\n") {
                self.out.push('\n');
            }
            self.out.push_str(text);
            self.out.push_str("\n\n");
        }
    }

    fn end_table(&mut self) {
        for row in &mut self.rows {
            let used = row.iter().rposition(|cell| !cell.trim().is_empty()).map_or(0, |last| last + 1);
            row.truncate(used);
        }
        self.rows.retain(|row| !row.is_empty());
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        if let Some(name) = self.sheet.take().filter(|_| columns > 0) {
            self.out.push_str("## ");
            self.out.push_str(&name);
            self.out.push_str("\n\n");
        }
        for (i, row) in std::mem::take(&mut self.rows).iter().enumerate() {
            markdown::push_row(&mut self.out, row.iter().map(String::as_str), columns);
            if i == 0 {
                markdown::push_rule(&mut self.out, columns);
            }
        }
        self.out.push('\n');
    }

    fn finish(mut self) -> Parsed {
        let end = self.out.trim_end().len();
        self.out.truncate(end);
        for page in &mut self.pages {
            page.byte_end = page.byte_end.min(end);
            page.byte_start = page.byte_start.min(page.byte_end);
        }
        let mut parsed = Parsed::markdown(self.out);
        parsed.outline.pages = self.pages;
        parsed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{super::container::tests::pack, *};

    #[test]
    fn headings_lists_and_tables_are_kept() {
        let xml = r#"<office:document-content><office:body><office:text>
            <text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>
            <text:h text:outline-level="2">Levels &amp; rain</text:h><text:p>One<text:s text:c="2"/>two.</text:p>
            <text:list><text:list-item><text:p>first</text:p></text:list-item><text:list-item><text:p>second</text:p></text:list-item></text:list>
            <table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>
            <table:table-cell table:number-columns-repeated="1000000"/></table:table-row></table:table>
            </office:text></office:body></office:document-content>"#;
        let parsed = parse(&pack(&[("content.xml", xml.as_bytes())]), &Limits::default()).unwrap();
        assert_eq!(parsed.text, "## Levels & rain\n\nOne  two.\n\n- first\n- second\n| a |\n|---|");
        assert_eq!(parsed.outline.headings[0].title, "Levels & rain");
    }

    #[test]
    fn sheets_begin_with_their_names_and_empty_ones_are_left_out() {
        let xml = r#"<office:document-content><office:body><office:spreadsheet>
            <table:table table:name="Rain &amp; flow"><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell></table:table-row></table:table>
            <table:table table:name="Empty"><table:table-row><table:table-cell/></table:table-row></table:table>
            </office:spreadsheet></office:body></office:document-content>"#;
        let parsed = parse(&pack(&[("content.xml", xml.as_bytes())]), &Limits::default()).unwrap();
        assert_eq!(parsed.text, "## Rain & flow\n\n| a |\n|---|");
        assert_eq!(parsed.outline.headings[0].title, "Rain & flow");
    }
}
