//! Electronic books: the chapters in reading order, each through the HTML parser.

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use riacho_domain::ReasonCode;

use super::{Limits, Parsed, container::Container, html, opendocument::entity};
use crate::{encoding, extracted::Failure};

/// Reads a book.
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, Failure> {
    let mut container = Container::open(bytes, limits)?;
    if container.read("META-INF/rights.xml")?.is_some() {
        return Err(Failure::new(ReasonCode::Encrypted, "the book is protected by its seller"));
    }
    let entry = container.require("META-INF/container.xml")?;
    let package_path = elements(&entry)?
        .find_map(|(name, element)| (name == "rootfile").then(|| attribute(&element, "full-path")).flatten())
        .ok_or_else(|| damaged("its container names no package"))?;
    let package = container.require(&package_path)?;
    let folder = package_path.rfind('/').map_or("", |end| &package_path[..=end]);
    let mut text = String::new();
    for chapter in spine(&package)? {
        let path = resolve(folder, &chapter);
        // A chapter that is missing is a hole in the book, not the end of it.
        let Some(bytes) = container.read(&path)? else { continue };
        let Some(decoded) = encoding::decode(&bytes, None) else { continue };
        let chapter = html::to_markdown(&decoded.text)?;
        if !chapter.is_empty() {
            text.push_str(&chapter);
            text.push_str("\n\n");
        }
        if text.len() as u64 > limits.max_text_bytes {
            return Err(super::text_too_large(limits));
        }
    }
    text.truncate(text.trim_end().len());
    let mut parsed = Parsed::markdown(text);
    parsed.outline.title = title(&package);
    Ok(parsed)
}

fn damaged(why: &str) -> Failure {
    Failure::new(ReasonCode::Corrupt, format!("the book is damaged: {why}"))
}

/// The opening tags of a document, by local name.
fn elements(xml: &[u8]) -> Result<impl Iterator<Item = (String, BytesStart<'static>)>, Failure> {
    let xml = encoding::decode(xml, None).ok_or_else(|| damaged("its XML is no text"))?.text;
    let mut reader = Reader::from_str(&xml);
    reader.config_mut().check_end_names = false;
    let mut found = Vec::new();
    loop {
        match reader.read_event() {
            Ok(Event::Start(element) | Event::Empty(element)) => {
                let name = element.local_name().as_ref().to_owned();
                found.push((name, element.into_owned()));
            }
            Ok(Event::Eof) => return Ok(found.into_iter()),
            Ok(_) => {}
            Err(error) => return Err(damaged(&error.to_string())),
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.attributes().flatten().find(|a| a.key.local_name().as_ref() == name)?;
    Some(found.value.into_owned())
}

/// The paths of the chapters, in reading order.
fn spine(package: &[u8]) -> Result<Vec<String>, Failure> {
    let mut items = std::collections::HashMap::new();
    let mut order = Vec::new();
    for (name, element) in elements(package)? {
        match name.as_str() {
            "item" => {
                if let (Some(id), Some(href)) = (attribute(&element, "id"), attribute(&element, "href")) {
                    items.insert(id, href);
                }
            }
            "itemref" => order.extend(attribute(&element, "idref")),
            _ => {}
        }
    }
    Ok(order.into_iter().filter_map(|id| items.remove(&id)).collect())
}

fn title(package: &[u8]) -> Option<String> {
    let xml = String::from_utf8_lossy(package);
    let start = xml.find("<dc:title")?;
    let start = start + xml[start..].find('>')? + 1;
    let end = start + xml[start..].find('<')?;
    let mut title = String::new();
    for (i, part) in xml[start..end].split('&').enumerate() {
        match part.split_once(';') {
            Some((name, rest)) if i > 0 => {
                title.push_str(&entity(name));
                title.push_str(rest);
            }
            _ => title.push_str(part),
        }
    }
    let title: String = title.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
    (!title.is_empty()).then_some(title)
}

/// The path of an entry from a reference in the package: relative, percent-encoded, with a fragment.
fn resolve(folder: &str, href: &str) -> String {
    let href = href.split('#').next().unwrap_or(href);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in href.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    percent_decoded(&parts.join("/"))
}

fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::{super::container::tests::pack, *};

    #[test]
    fn chapters_come_in_reading_order() {
        let container =
            br#"<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"#;
        let package = br#"<package><metadata><dc:title>Rain &amp; river</dc:title></metadata>
            <manifest><item id="b" href="two.xhtml"/><item id="a" href="one%20x.xhtml"/></manifest>
            <spine><itemref idref="a"/><itemref idref="missing"/><itemref idref="b"/></spine></package>"#;
        let bytes = pack(&[
            ("META-INF/container.xml", container),
            ("OEBPS/book.opf", package),
            ("OEBPS/two.xhtml", b"<html><body><h1>Two</h1><p>end</p></body></html>"),
            ("OEBPS/one x.xhtml", b"<html><body><h1>One</h1><p>start</p></body></html>"),
        ]);
        let parsed = parse(&bytes, &Limits::default()).unwrap();
        assert_eq!(parsed.text, "# One\n\nstart\n\n# Two\n\nend");
        assert_eq!(parsed.outline.title.as_deref(), Some("Rain & river"));
    }
}
