//! Writing chunks and vectors of many documents of many tenants in one transaction, and flipping the
//! live version when the count of a sealed run is complete.

mod count;
mod rows;
mod write;

use std::ops::Range;

use riacho_domain::{RunId, SpaceId};
use riacho_proto::v1::EmbeddedChunk;

use self::rows::check;
use crate::{Error, Release, Store, transaction::Scope};

/// Some chunks of one run of a document version, with their vectors.
#[derive(Debug, Clone)]
pub struct IndexItem {
    /// The release that the chunks came with.
    pub release: Release,
    /// The run that cut them.
    pub run: RunId,
    /// The embedding space of the vectors.
    pub space: SpaceId,
    /// The text's language, ISO 639-1, or empty.
    pub language: String,
    /// The chunks.
    pub chunks: Vec<EmbeddedChunk>,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexAnswer {
    /// Its rows are there.
    Written {
        /// Whether this call made the version searchable. Of several items of a version in one call,
        /// one says so.
        ready: bool,
    },
    /// Its release, run or space is not the version's any more; nothing was written.
    Superseded,
    /// Its data can never be written; nothing was.
    Rejected {
        /// Why.
        message: String,
    },
}

impl Store {
    /// Writes the items and answers each, in order. An item whose data spoils the transaction is
    /// bisected out. On an error all items are to be given again: what was written then is written once.
    pub async fn index(&self, items: &[IndexItem]) -> Result<Vec<IndexAnswer>, Error> {
        let mut answers = self.check_items(items).await?;
        let good: Vec<&IndexItem> =
            items.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(item, _)| item).collect();
        let mut written = self.index_checked(&good).await?.into_iter();
        let missing = || Error::Row("an item without an answer".into());
        answers
            .iter_mut()
            .map(|answer| answer.take().or_else(|| written.next()).ok_or_else(missing))
            .collect()
    }

    /// Rejects what cannot be written before it spoils a transaction.
    async fn check_items(&self, items: &[IndexItem]) -> Result<Vec<Option<IndexAnswer>>, Error> {
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            let dimensions = self.dimensions(item.space).await?;
            answers.push(check(item, dimensions).err().map(|message| IndexAnswer::Rejected { message }));
        }
        Ok(answers)
    }

    async fn index_checked(&self, items: &[&IndexItem]) -> Result<Vec<IndexAnswer>, Error> {
        let mut answers: Vec<Option<IndexAnswer>> = vec![None; items.len()];
        let mut stack: Vec<Range<usize>> = Vec::new();
        stack.push(0..items.len());
        while let Some(range) = stack.pop() {
            let part = &items[range.clone()];
            if part.is_empty() {
                continue;
            }
            let result = self
                .transaction(Scope::all("index"), |tx| async move { self.write_items(&tx, part).await })
                .await;
            match result {
                Ok(written) => {
                    self.remember_languages(part, &written);
                    for (place, answer) in range.zip(written) {
                        answers[place] = Some(answer);
                    }
                }
                // Anything else is no item's fault: a lost race, a missing right or table.
                Err(error) if !error.is_of_the_data() => return Err(error),
                Err(error) if part.len() == 1 => {
                    answers[range.start] = Some(IndexAnswer::Rejected { message: error.to_string() });
                }
                Err(_) => {
                    let middle = range.start + part.len() / 2;
                    stack.push(range.start..middle);
                    stack.push(middle..range.end);
                }
            }
        }
        answers.into_iter().map(|a| a.ok_or_else(|| Error::Row("an item without an answer".into()))).collect()
    }

    /// The dimensions of a space; none when there is no such space. Spaces do not change.
    async fn dimensions(&self, space: SpaceId) -> Result<Option<u32>, Error> {
        if let Some(known) = self.inner.known.dimensions(space) {
            return Ok(Some(known));
        }
        for found in self.spaces().await? {
            self.inner.known.add_space(found.id, found.dimensions);
        }
        Ok(self.inner.known.dimensions(space))
    }
}

pub(crate) use self::rows::{HalfVector, StoredVector};
/// The statements of this folder.
pub(crate) use self::write::statements;
