//! Web pages to Markdown, without scripts, styles and navigation.

use htmd::{
    Element, HtmlToMarkdown,
    element_handler::{HandlerResult, Handlers},
    options::{BrStyle, BulletListMarker, Options},
};
use riacho_domain::ReasonCode;

use super::{Parsed, markdown};
use crate::{encoding, extracted::Failure};

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
    let text = converter
        .convert(html)
        .map_err(|error| Failure::new(ReasonCode::Corrupt, format!("the page cannot be read: {error}")))?;
    Ok(markdown::tidy(&encoding::clean(text)))
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
    fn the_encoding_of_a_page_is_the_one_it_names() {
        assert_eq!(declared_encoding(b"<meta charset=\"windows-1252\">").as_deref(), Some("windows-1252"));
        assert_eq!(declared_encoding(b"<meta content='text/html; charset=Big5'>").as_deref(), Some("big5"));
        assert_eq!(declared_encoding(b"charset=utf-16"), None);
    }
}
