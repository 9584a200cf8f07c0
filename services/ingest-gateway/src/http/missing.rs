//! Pages that have no text, as answers show them.

use riacho_store::MissingPages;
use serde::Serialize;
use utoipa::ToSchema;

use super::shapes;

/// So many rows of pages are named in a sentence; more are counted.
const MOST_NAMED: usize = 8;

/// Pages that have no text, for one reason.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MissingBody {
    /// For programs.
    #[schema(example = "timeout")]
    code: String,
    /// For people.
    message: String,
    /// The pages, from 1.
    pages: Vec<u32>,
}

/// The pages, for programs.
pub(super) fn bodies(missing: &[MissingPages]) -> Vec<MissingBody> {
    let body = |missing: &MissingPages| MissingBody {
        code: missing.reason.code.clone(),
        message: missing.reason.message.clone(),
        pages: missing.pages.iter().flat_map(|(first, last)| shapes::pages(*first, *last)).collect(),
    };
    missing.iter().map(body).collect()
}

/// The pages in a sentence; nothing where none is missing.
pub(super) fn sentence(missing: &[MissingPages], total: Option<u32>) -> Option<String> {
    let rows = missing.iter().flat_map(|missing| &missing.pages);
    let count: u32 = rows.map(|(first, last)| last.saturating_sub(*first).saturating_add(1)).sum();
    if count == 0 {
        return None;
    }
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    let pages = if count == 1 && total.is_none() { "page" } else { "pages" };
    let verb = if count == 1 { "has" } else { "have" };
    let reasons: Vec<String> = missing
        .iter()
        .map(|missing| format!("{} ({})", named(&missing.pages), missing.reason.message))
        .collect();
    Some(format!("{count}{of} {pages} {verb} no text: {}", reasons.join("; ")))
}

/// Rows of pages in words: `3, 5 to 8 and 12`.
fn named(pages: &[(u32, u32)]) -> String {
    let row = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    };
    let mut names: Vec<String> = pages.iter().take(MOST_NAMED).map(row).collect();
    if pages.len() > MOST_NAMED {
        names.push("others".to_owned());
    }
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use riacho_store::Reason;

    use super::*;

    fn missing(message: &str, pages: &[(u32, u32)]) -> MissingPages {
        let reason = Reason { code: "corrupt".into(), message: message.into() };
        MissingPages { reason, pages: pages.to_vec() }
    }

    #[test]
    fn missing_pages_are_said_in_a_sentence() {
        let damaged = missing("the page is damaged", &[(3, 3), (5, 6), (8, 11)]);
        let slow = missing("it took too long", &[(12, 12)]);
        assert_eq!(
            sentence(&[damaged, slow], Some(20)).as_deref(),
            Some(
                "8 of 20 pages have no text: 3, 5, 6 and 8 to 11 (the page is damaged); 12 (it took too long)"
            )
        );
        let many: Vec<(u32, u32)> = (1..40).map(|page| (page * 2, page * 2)).collect();
        let sentence_of_many = sentence(&[missing("no", &many)], None).unwrap_or_default();
        assert!(
            sentence_of_many.ends_with("2, 4, 6, 8, 10, 12, 14, 16 and others (no)"),
            "{sentence_of_many}"
        );
        assert_eq!(sentence(&[], Some(3)), None);
    }

    #[test]
    fn a_program_gets_each_page() {
        assert_eq!(bodies(&[missing("no", &[(2, 2), (4, 6)])])[0].pages, [2, 4, 5, 6]);
    }
}
