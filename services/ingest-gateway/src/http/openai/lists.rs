//! Lists: what may be asked of them, and how they are answered.

use riacho_store::{Part, Window};
use serde::{Deserialize, Serialize};

use super::{super::problem::Problem, ids::Kind};

/// The most items of a page, but for files.
pub(super) const MAX_PAGE: u32 = 100;
/// How many there are when nothing is said.
pub(super) const DEFAULT_PAGE: u32 = 20;

/// In which order of their making.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// The oldest first.
    Asc,
    /// The newest first.
    #[default]
    Desc,
}

/// Which part of a list. What else a client sends is ignored, as OpenAI does.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    after: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
    #[serde(default)]
    order: Order,
    /// Of files: their purpose.
    pub(super) purpose: Option<String>,
    /// Of files of a vector store: their status.
    pub(super) filter: Option<String>,
}

impl ListQuery {
    /// The window that is asked for, in a list of things with ids of this kind.
    pub(super) fn window(&self, kind: Kind, default: u32, most: u32) -> Result<Window, Problem> {
        let place = |field: &str, id: &Option<String>| {
            id.as_deref().filter(|id| !id.is_empty()).map(|id| kind.of_field(field, id)).transpose()
        };
        let limit = super::super::documents::page_limit(self.limit, default, most)?;
        Ok(Window {
            ascending: self.order == Order::Asc,
            after: place("after", &self.after)?,
            before: place("before", &self.before)?,
            limit,
        })
    }
}

/// A page.
#[derive(Debug, Serialize)]
pub(super) struct PageBody<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl<T> PageBody<T> {
    /// A page of what has these ids.
    pub(super) fn new<I>(part: Part<I>, body: impl Fn(I) -> T, id: impl Fn(&T) -> &str) -> Self {
        let data: Vec<T> = part.items.into_iter().map(body).collect();
        Self {
            object: "list",
            first_id: data.first().map(|item| id(item).to_owned()),
            last_id: data.last().map(|item| id(item).to_owned()),
            has_more: part.has_more,
            data,
        }
    }
}

/// That something was deleted.
#[derive(Debug, Serialize)]
pub(super) struct DeletedBody {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl DeletedBody {
    pub(super) const fn new(id: String, object: &'static str) -> Self {
        Self { id, object, deleted: true }
    }
}
