//! Web pages to Markdown, without scripts, styles and navigation.

use std::{cell::Cell, rc::Rc};

use htmd::{
    Element, HtmlToMarkdown, Node,
    element_handler::{HandlerResult, Handlers},
    options::{BrStyle, BulletListMarker, Options},
};
use html5ever::{
    parse_document,
    tendril::{StrTendril, TendrilSink},
    tree_builder::Tracer,
};
use markup5ever_rcdom::RcDom;
use riacho_domain::ReasonCode;

use super::{Parsed, markdown};
use crate::{encoding, extracted::Failure};

/// How many elements may be open at once. Browsers build no deeper trees either, and the time that a
/// page takes grows with the square of its depth.
const MAX_OPEN: usize = 512;
/// After so many bytes the open elements are counted. That many bytes open a few hundred at most, so
/// no tree is much deeper than the limit.
const STEP_BYTES: usize = 1024;

/// Converts a page.
pub(super) fn parse(html: &str) -> Result<Parsed, Failure> {
    let mut parsed = Parsed::markdown(to_markdown(html)?);
    parsed.outline.title = element_text(html, "title");
    parsed.outline.language = None;
    Ok(parsed)
}

/// Converts a page or a part of one.
pub(super) fn to_markdown(html: &str) -> Result<String, Failure> {
    let options = Options {
        bullet_list_marker: BulletListMarker::Dash,
        ul_bullet_spacing: 1,
        ol_number_spacing: 1,
        br_style: BrStyle::TwoSpaces,
        ..Options::default()
    };
    let converter = HtmlToMarkdown::builder()
        .options(options)
        .skip_tags(vec![
            "script", "style", "nav", "footer", "template", "noscript", "head", "svg", "iframe", "object",
        ])
        .add_handler(vec!["a"], link)
        .add_handler(vec!["img"], image)
        .build();
    let text = converter.tree_to_markdown(&tree(html)?);
    Ok(markdown::tidy(&encoding::clean(text)))
}

/// The tree of a page that is not nested too deeply. The work ends soon after the limit is passed,
/// however much of the page is left.
fn tree(html: &str) -> Result<Rc<Node>, Failure> {
    let mut parser = parse_document(RcDom::default(), Default::default());
    let mut rest = html;
    while !rest.is_empty() {
        let (step, left) = rest.split_at(rest.ceil_char_boundary(STEP_BYTES));
        rest = left;
        parser.process(StrTendril::from(step));
        let open = Open::default();
        parser.tokenizer.sink.trace_handles(&open);
        if open.0.get() > MAX_OPEN {
            return Err(Failure::new(ReasonCode::Corrupt, "the page is nested too deeply"));
        }
    }
    Ok(parser.finish().document)
}

/// Counts the elements that are open while a tree is built, and the formatting that waits to be opened
/// again, which costs the same.
#[derive(Default)]
struct Open(Cell<usize>);

impl Tracer for Open {
    type Handle = Rc<Node>;

    fn trace_handle(&self, _: &Self::Handle) {
        self.0.set(self.0.get() + 1);
    }
}

/// The words of a link are text; its address is not.
fn link(handlers: &dyn Handlers, element: Element<'_>) -> Option<HandlerResult> {
    Some(handlers.walk_children(element.node))
}

/// A picture gives its alternative text; its data may be megabytes.
fn image(_: &dyn Handlers, element: Element<'_>) -> Option<HandlerResult> {
    let alt = element.attrs.iter().find(|attribute| &*attribute.name.local == "alt")?;
    Some(alt.value.trim().to_owned().into())
}

/// The encoding that a page names in its first kilobyte.
pub(super) fn declared_encoding(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).to_ascii_lowercase();
    if !head.contains('<') {
        return None;
    }
    let start =
        ["charset=", "encoding="].into_iter().find_map(|key| head.find(key).map(|at| at + key.len()))?;
    let value = head[start..].trim_start_matches(['"', '\'', ' ']);
    let end = value
        .find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | ':'))
        .unwrap_or(value.len());
    (end > 0).then(|| value[..end].to_owned())
}

/// The words of the first element of a name, found without building a tree.
fn element_text(html: &str, name: &str) -> Option<String> {
    let head: String = html.chars().take(8192).collect();
    let lower = head.to_ascii_lowercase();
    let open = lower.find(&format!("<{name}"))?;
    let start = open + lower[open..].find('>')? + 1;
    let end = start + lower[start..].find("</")?;
    let text: Vec<&str> = head[start..end].split_whitespace().collect();
    let text = text
        .join(" ")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"");
    (!text.is_empty()).then(|| text.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_page_keeps_its_text_and_loses_the_rest() {
        let html = "<html><head><title>A &amp; B</title><style>p{}</style></head><body><nav>menu</nav>\
            <h2>Levels</h2><p>See <a href='http://x'>the table</a>.<img src='data:image/png;base64,AAAA' alt='A map'></p>\
            <script>alert(1)</script><table><tr><th>Station</th><th>m</th></tr><tr><td>North</td><td>3</td></tr></table>\
            <ul><li>one</li><li>two</li></ul></body></html>";
        let parsed = parse(html).unwrap();
        assert_eq!(parsed.outline.title.as_deref(), Some("A & B"));
        assert_eq!(parsed.outline.headings[0].title, "Levels");
        for part in ["## Levels", "See the table.A map", "| North", "- one\n- two"] {
            assert!(parsed.text.contains(part), "{part}: {}", parsed.text);
        }
        for part in ["menu", "alert", "base64", "http", "p{}"] {
            assert!(!parsed.text.contains(part), "{part}: {}", parsed.text);
        }
    }

    #[test]
    fn a_page_that_is_nested_too_deeply_fails_at_once() {
        assert_eq!(parse(&"<div>".repeat(20_000)).unwrap_err().reason, ReasonCode::Corrupt);
        // Nearly all of these lies behind the limit: building their trees would take hours.
        for start in ["<div>", "<ul><li>", "<table><tr><td>", "<blockquote>", "<font size=1>"] {
            let failure = to_markdown(&start.repeat(1_000_000)).unwrap_err();
            assert_eq!(failure.reason, ReasonCode::Corrupt, "{start}");
            assert!(failure.message.contains("nested too deeply"), "{start}: {failure:?}");
        }
    }

    #[test]
    fn a_long_page_without_closing_tags_is_not_deep() {
        let rows = "<tr><td>cell<td><b>bold</b>\n".repeat(3_000);
        let items = "<li>item\n<p>more<br><img src=x>\n".repeat(3_000);
        let page = format!("<table>{rows}</table><ul>{items}</ul>{}the end", "<p>words é ".repeat(3_000));
        let text = to_markdown(&page).unwrap();
        assert_eq!(text.matches("words é").count(), 3_000);
        assert_eq!(text.matches("item").count(), 3_000);
        assert!(text.contains("bold") && text.ends_with("the end"), "{}", &text[text.len() - 100..]);
        let nested = format!("{}inner{}", "<div>".repeat(400), "</div>".repeat(400));
        assert_eq!(to_markdown(&nested).unwrap().trim(), "inner");
    }

    #[test]
    fn the_encoding_of_a_page_is_the_one_it_names() {
        assert_eq!(declared_encoding(b"<meta charset=\"windows-1252\">").as_deref(), Some("windows-1252"));
        assert_eq!(declared_encoding(b"<meta content='text/html; charset=Big5'>").as_deref(), Some("big5"));
        assert_eq!(declared_encoding(b"charset=utf-16"), None);
    }
}
