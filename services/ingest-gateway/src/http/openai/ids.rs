//! Ids as OpenAI's API has them: a prefix that says of what, and a UUID without hyphens.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};
use uuid::Uuid;

use super::super::problem::Problem;

/// What an id is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file, or a document that was uploaded without one.
    File,
    /// A collection.
    Store,
    /// A batch.
    Batch,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Kind::File => "file-",
            Kind::Store => "vs_",
            Kind::Batch => "vsfb_",
        }
    }

    /// What it is called in an error.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Store => "vector store",
            Kind::Batch => "vector store file batch",
        }
    }

    /// The id of a row.
    pub(super) fn id(self, row: Uuid) -> String {
        format!("{}{}", self.prefix(), row.simple())
    }

    /// The row of an id.
    pub(super) fn row(self, id: &str) -> Option<Uuid> {
        let hex = id.strip_prefix(self.prefix())?;
        let is_plain = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_plain { Uuid::try_parse(hex).ok() } else { None }
    }

    /// The row of an id in a request's body or query, which is named where it is none.
    pub(super) fn of_field(self, field: &str, id: &str) -> Result<Uuid, Problem> {
        self.row(id).ok_or_else(|| Problem::field(field, format!("is not the id of a {}", self.name())))
    }

    /// Nothing of this kind, as far as the caller can see.
    pub(super) fn not_found(self) -> Problem {
        Problem::not_found(self.name())
    }
}

/// The ids in a path, in their order. What is no id is not found, like an id that is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids<const N: usize>(pub(super) [Uuid; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for Ids<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Problem::no_route())?;
        let mut ids = [Uuid::nil(); N];
        for (id, (name, text)) in ids.iter_mut().zip(&params) {
            let kind = match name {
                "store" => Kind::Store,
                "batch" => Kind::Batch,
                _ => Kind::File,
            };
            *id = kind.row(text).ok_or_else(|| kind.not_found())?;
        }
        Ok(Ids(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_row_and_nothing_else_does() {
        let row = Uuid::now_v7();
        for kind in [Kind::File, Kind::Store, Kind::Batch] {
            assert_eq!(kind.row(&kind.id(row)), Some(row));
            let (plain, upper) = (row.to_string(), kind.id(row).to_uppercase());
            let hyphens = format!("{}{row}", kind.prefix());
            for wrong in ["", "file-", "vs_", "vs_x", plain.as_str(), upper.as_str(), hyphens.as_str()] {
                assert_eq!(kind.row(wrong), None, "{kind:?} {wrong}");
            }
        }
        assert_eq!(Kind::File.row(&Kind::Store.id(row)), None);
    }
}
