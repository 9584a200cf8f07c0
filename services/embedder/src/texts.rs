//! What of a batch reaches the model: each content once, and only what has no vector yet.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;
use riacho_domain::{SpaceId, TenantId, embedding_input, input_hash};
use riacho_proto::v1::{Chunk, ChunksCut};
use riacho_service::spend::Owner;
use riacho_store::{ContentHash, Known, WantedVectors};

use crate::metrics;

/// Where a chunk's vector comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// It stood already.
    Stored(Bytes),
    /// It is made of this text of the batch.
    Text(usize),
}

/// The sources of an event's chunks, in order.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) list: Vec<Source>,
    pub(crate) counts: metrics::Chunks,
}

/// The texts of a batch, and which content each of them is.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    texts: Vec<String>,
    owners: Vec<Owner>,
    places: HashMap<(TenantId, SpaceId, ContentHash), usize>,
}

impl Texts {
    /// The texts for the model, in order.
    pub(crate) fn all(&self) -> &[String] {
        &self.texts
    }

    /// Whose each of them is.
    pub(crate) fn owners(&self) -> &[Owner] {
        &self.owners
    }

    /// Finds a source for each chunk of an event, and adds the texts that have to be embedded.
    pub(crate) fn add(&mut self, tenant: &TenantId, cut: &ChunksCut, known: &Known) -> Sources {
        let stored = known.vectors.get(&(tenant.clone(), cut.space));
        let mut counts = metrics::Chunks::default();
        let sources = cut.chunks.iter().map(|chunk| {
            let text = embedding_input(&cut.title, &chunk.heading_path, &chunk.table_header, &chunk.text);
            // Another build may have hashed something else than this one embeds.
            let hash = hash_of(chunk).filter(|hash| input_hash(&text) == *hash);
            let Some(hash) = hash else {
                counts.made += 1;
                return Source::Text(self.push(tenant, chunk, text));
            };
            if let Some(vector) = stored.and_then(|stored| stored.get(&hash)) {
                counts.stored += 1;
                return Source::Stored(vector.clone());
            }
            let next = self.texts.len();
            match self.places.entry((tenant.clone(), cut.space, hash)) {
                Entry::Occupied(place) => {
                    counts.repeated += 1;
                    Source::Text(*place.get())
                }
                Entry::Vacant(place) => {
                    counts.made += 1;
                    place.insert(next);
                    Source::Text(self.push(tenant, chunk, text))
                }
            }
        });
        let list = sources.collect();
        Sources { list, counts }
    }

    fn push(&mut self, tenant: &TenantId, chunk: &Chunk, text: String) -> usize {
        self.texts.push(text);
        self.owners.push(Owner { tenant: tenant.clone(), tokens: chunk.token_count.into() });
        self.texts.len() - 1
    }
}

/// Adds the contents of an event to those that are looked up.
pub(crate) fn want(wanted: &mut WantedVectors, tenant: &TenantId, cut: &ChunksCut) {
    let hashes = wanted.entry((tenant.clone(), cut.space)).or_default();
    hashes.extend(cut.chunks.iter().filter_map(hash_of));
}

fn hash_of(chunk: &Chunk) -> Option<ContentHash> {
    chunk.content_hash.as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use riacho_domain::content_hash;

    use super::*;

    fn cut(texts: &[&str]) -> ChunksCut {
        let chunk = |text: &&str| Chunk {
            text: (*text).to_owned(),
            content_hash: content_hash("title", &[], "", text).to_vec().into(),
            ..Chunk::default()
        };
        ChunksCut {
            title: "title".to_owned(),
            space: 1,
            chunks: texts.iter().map(chunk).collect(),
            ..ChunksCut::default()
        }
    }

    fn tenant(id: &str) -> TenantId {
        id.parse().unwrap()
    }

    #[test]
    fn a_content_that_stands_or_repeats_in_the_batch_is_not_embedded_again() {
        let mut known = Known::default();
        let vector = Bytes::from_static(&[1, 2]);
        let stored = HashMap::from([(content_hash("title", &[], "", "old"), vector.clone())]);
        known.vectors.insert((tenant("acme"), 1), stored);
        let mut texts = Texts::default();
        let first = texts.add(&tenant("acme"), &cut(&["old", "new", "new"]), &known);
        assert_eq!((first.counts.stored, first.counts.made, first.counts.repeated), (1, 1, 1));
        assert_eq!(first.list, [Source::Stored(vector), Source::Text(0), Source::Text(0)]);
        assert_eq!(
            texts.add(&tenant("acme"), &cut(&["new", "newer"]), &known).list,
            [Source::Text(0), Source::Text(1)]
        );
        // Another tenant's content is its own, and so is that of another space.
        assert_eq!(
            texts.add(&tenant("other"), &cut(&["old", "new"]), &known).list,
            [Source::Text(2), Source::Text(3)]
        );
        let elsewhere = ChunksCut { space: 2, ..cut(&["old"]) };
        assert_eq!(texts.add(&tenant("acme"), &elsewhere, &known).list, [Source::Text(4)]);
        assert_eq!(texts.all(), ["title\nnew", "title\nnewer", "title\nold", "title\nnew", "title\nold"]);
    }

    #[test]
    fn a_hash_of_something_else_is_not_trusted() {
        let mut wrong = cut(&["old", "old"]);
        wrong.title = "another".to_owned();
        let stored = HashMap::from([(content_hash("title", &[], "", "old"), Bytes::new())]);
        let known = Known { vectors: HashMap::from([((tenant("acme"), 1), stored)]), ..Known::default() };
        let mut texts = Texts::default();
        assert_eq!(texts.add(&tenant("acme"), &wrong, &known).list, [Source::Text(0), Source::Text(1)]);
        let mut wanted = WantedVectors::new();
        want(&mut wanted, &tenant("acme"), &wrong);
        assert_eq!(wanted[&(tenant("acme"), 1)].len(), 2);
    }
}
