//! File names from outside: what is kept of them, and how they are sent back.

/// The longest file name that is kept, in bytes.
const MAX_BYTES: usize = 255;
/// The longest ending that survives when a name is cut.
const MAX_EXTENSION: usize = 16;
/// The name of a file whose name says nothing.
const NAMELESS: &str = "document";

/// The last component of a path, without control characters and within 255 bytes.
///
/// Both kinds of slashes separate, since names come from all systems. Characters that turn the
/// direction of writing are dropped, because they make a name look like another.
pub(crate) fn clean_filename(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last.chars().filter(|c| !c.is_control() && !is_invisible(*c)).collect();
    let kept = kept.trim();
    if kept.trim_matches('.').is_empty() { NAMELESS.to_owned() } else { shortened(kept) }
}

const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn shortened(name: &str) -> String {
    if name.len() <= MAX_BYTES {
        return name.to_owned();
    }
    let extension = name.rfind('.').map_or("", |at| &name[at..]);
    let extension = if extension.len() <= MAX_EXTENSION { extension } else { "" };
    let mut end = MAX_BYTES - extension.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{extension}", &name[..end])
}

/// A `Content-Disposition` that a browser saves under the name, and never shows in place (RFC 6266).
pub(crate) fn attachment(filename: &str) -> String {
    let ascii: String = filename
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let mut value = format!("attachment; filename=\"{ascii}\"");
    if ascii != filename {
        value.push_str("; filename*=UTF-8''");
        for byte in filename.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    value.push(char::from(byte))
                }
                _ => value.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    value
}

/// The claimed media type, where it is one; what the name suggests otherwise.
pub(crate) fn content_type(claimed: Option<&str>, filename: &str) -> String {
    let usable = |text: &&str| {
        let fits = text.len() <= 255
            && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            && text.contains('/');
        // What a client sends that does not know better.
        fits && !text.starts_with("application/octet-stream")
            && !text.starts_with("application/x-www-form-urlencoded")
    };
    claimed.map(str::trim).filter(usable).map_or_else(
        || mime_guess::from_path(filename).first_raw().unwrap_or("application/octet-stream").to_owned(),
        str::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filename_is_reduced_to_its_last_component() {
        assert_eq!(clean_filename("../../etc/passwd"), "passwd");
        assert_eq!(clean_filename("C:\\Users\\ana\\relatório.pdf"), "relatório.pdf");
        assert_eq!(clean_filename("a\u{0}b\nc\r.txt\u{202e}fdp"), "abc.txtfdp");
        for nameless in ["", "..", "/", "a/", "\u{7}", " . "] {
            assert_eq!(clean_filename(nameless), "document", "{nameless:?}");
        }
        let long = clean_filename(&format!("{}.pdf", "ã".repeat(200)));
        assert!(long.len() <= 255 && long.ends_with(".pdf"), "{long}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        assert_eq!(attachment("plain name.txt"), "attachment; filename=\"plain name.txt\"");
        assert_eq!(
            attachment("a\"; filename=\"x é.txt"),
            "attachment; filename=\"a_; filename=_x _.txt\"; filename*=UTF-8''a%22%3B%20filename%3D%22x%20%C3%A9.txt"
        );
        assert!(!attachment("a\r\nSet-Cookie: x").contains(['\r', '\n']));
    }

    #[test]
    fn a_media_type_that_says_nothing_is_guessed_from_the_name() {
        assert_eq!(
            content_type(Some("text/markdown; charset=utf-8"), "a.md"),
            "text/markdown; charset=utf-8"
        );
        assert_eq!(content_type(Some("application/octet-stream"), "a.pdf"), "application/pdf");
        assert_eq!(content_type(Some("nonsense"), "a.unknown-ending"), "application/octet-stream");
        assert_eq!(content_type(None, "a.html"), "text/html");
    }
}
