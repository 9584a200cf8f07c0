//! `Range` and the conditions around it (RFC 9110), for one range.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What a request wants of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The client has it already.
    NotModified,
    /// All of it.
    Whole,
    /// Some of it; never empty.
    Part(Range<u64>),
    /// Nothing that the file has.
    Unsatisfiable,
}

/// Reads the conditions and the range of a request for a file of `size` bytes.
pub(crate) fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| matches(tags, etag)) {
        return Wanted::NotModified;
    }
    let Some(range) = text(header::RANGE) else { return Wanted::Whole };
    // A date or another tag means that the client's part is of other bytes.
    if text(header::IF_RANGE).is_some_and(|tag| tag.trim() != etag) {
        return Wanted::Whole;
    }
    parse(range, size)
}

/// Whether `If-None-Match` names a tag; weakly, as RFC 9110 asks of it.
pub(crate) fn matches(tags: &str, etag: &str) -> bool {
    tags.trim() == "*" || tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
}

/// What is not one range of bytes is ignored, as the RFC allows.
fn parse(text: &str, size: u64) -> Wanted {
    let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|spec| spec.split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>();
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Ok(0) => Wanted::Unsatisfiable,
            Ok(count) if size > 0 => Wanted::Part(size.saturating_sub(count)..size),
            Ok(_) => Wanted::Unsatisfiable,
            Err(_) => Wanted::Whole,
        },
        (first, last) => {
            let end = if last.is_empty() { Ok(u64::MAX) } else { number(last) };
            match (number(first), end) {
                (Ok(first), Ok(last)) if first > last => Wanted::Whole,
                (Ok(first), Ok(_)) if first >= size => Wanted::Unsatisfiable,
                (Ok(first), Ok(last)) => Wanted::Part(first..last.saturating_add(1).min(size)),
                _ => Wanted::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (text, expected) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=2-", Wanted::Part(2..10)),
            ("bytes=2-99", Wanted::Part(2..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-2", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("bytes=18446744073709551615-18446744073709551615", Wanted::Unsatisfiable),
            ("bytes=0-18446744073709551615", Wanted::Part(0..10)),
        ] {
            assert_eq!(parse(text, 10), expected, "{text}");
        }
        assert_eq!(parse("bytes=-5", 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn a_condition_decides_before_the_range() {
        let with = |pairs: &[(header::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, value.parse().unwrap_or_else(|_| unreachable!()));
            }
            wanted(&headers, "\"a\"", 10)
        };
        assert_eq!(with(&[(header::IF_NONE_MATCH, "\"b\", W/\"a\"")]), Wanted::NotModified);
        assert_eq!(with(&[(header::IF_RANGE, "\"a\""), (header::RANGE, "bytes=1-1")]), Wanted::Part(1..2));
        assert_eq!(with(&[(header::IF_RANGE, "\"b\""), (header::RANGE, "bytes=1-1")]), Wanted::Whole);
    }
}
