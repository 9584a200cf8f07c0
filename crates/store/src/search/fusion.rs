//! Putting the two legs of a hybrid search together, without I/O.

use std::collections::HashMap;

use riacho_domain::{DocumentId, RunId, Version};

/// A chunk that a leg found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) document: DocumentId,
    pub(crate) version: Version,
    pub(crate) run: RunId,
    pub(crate) ordinal: u32,
}

/// The parts of a hit's score.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct ScoreParts {
    /// Rank among the nearest vectors, from 1.
    pub vector_rank: Option<u32>,
    /// Cosine similarity to the query's vector.
    pub similarity: Option<f64>,
    /// Rank among the matches of the query's words, from 1.
    pub keyword_rank: Option<u32>,
    /// Score of the match of the words; comparable within one search only.
    pub keyword_score: Option<f64>,
}

/// The damping of ranks: Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet
/// and individual rank learning methods", SIGIR 2009.
const DAMPING: f64 = 60.0;

/// Words that match are stronger evidence than a near vector of a static model: measured on the sets
/// in reference/peers.md, the keyword leg is the better one, and equal weights lose to it on some.
const KEYWORD_WEIGHT: f64 = 1.0;
const VECTOR_WEIGHT: f64 = 0.6;

/// The hits of one leg with their scores, the best first.
pub(crate) type Leg = Vec<(Place, f64)>;

/// What a search found, before its texts are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) place: Place,
    pub(crate) score: f64,
    pub(crate) parts: ScoreParts,
}

/// Ranks what the legs found. With one leg its own score is the score; with two it is the weighted
/// sum of reciprocal ranks, 1 for a chunk that leads both.
pub(crate) fn fuse(vector: Option<Leg>, keyword: Option<Leg>, top: usize) -> Vec<Found> {
    let both = vector.is_some() && keyword.is_some();
    let mut parts: HashMap<Place, ScoreParts> = HashMap::new();
    for (rank, (place, similarity)) in (1..).zip(vector.unwrap_or_default()) {
        let entry = parts.entry(place).or_default();
        (entry.vector_rank, entry.similarity) = (Some(rank), Some(similarity));
    }
    for (rank, (place, score)) in (1..).zip(keyword.unwrap_or_default()) {
        let entry = parts.entry(place).or_default();
        (entry.keyword_rank, entry.keyword_score) = (Some(rank), Some(score));
    }
    let mut found: Vec<Found> = parts
        .into_iter()
        .map(|(place, parts)| Found {
            place,
            score: if both { fused(&parts) } else { single(&parts) },
            parts,
        })
        .collect();
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.place.cmp(&b.place)));
    found.truncate(top);
    found
}

fn fused(parts: &ScoreParts) -> f64 {
    let share =
        |rank: Option<u32>, weight: f64| rank.map_or(0.0, |rank| weight / (DAMPING + f64::from(rank)));
    let best = (KEYWORD_WEIGHT + VECTOR_WEIGHT) / (DAMPING + 1.0);
    (share(parts.keyword_rank, KEYWORD_WEIGHT) + share(parts.vector_rank, VECTOR_WEIGHT)) / best
}

fn single(parts: &ScoreParts) -> f64 {
    parts.similarity.or(parts.keyword_score).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: u32) -> Vec<Place> {
        let (document, run) = (DocumentId::new(), RunId::new());
        (0..count).map(|ordinal| Place { document, version: 1, run, ordinal }).collect()
    }

    #[test]
    fn a_chunk_that_leads_both_legs_leads_and_the_keyword_leg_weighs_more() {
        let p = places(3);
        let vector = vec![(p[0], 0.9), (p[1], 0.8)];
        let keyword = vec![(p[0], 5.0), (p[2], 4.0)];
        let found = fuse(Some(vector), Some(keyword), 10);
        assert_eq!(found.iter().map(|f| f.place.ordinal).collect::<Vec<_>>(), [0, 2, 1]);
        assert!((found[0].score - 1.0).abs() < 1e-9);
        assert_eq!(found[0].parts.vector_rank, Some(1));
        assert_eq!(found[1].parts.vector_rank, None);
    }

    #[test]
    fn one_leg_keeps_its_order_and_its_scores() {
        let p = places(3);
        let found = fuse(None, Some(vec![(p[2], 3.0), (p[0], 2.0), (p[1], 1.0)]), 2);
        assert_eq!(
            found.iter().map(|f| (f.place.ordinal, f.score)).collect::<Vec<_>>(),
            [(2, 3.0), (0, 2.0)]
        );
    }

    #[test]
    fn an_empty_leg_leaves_the_other_ones_order() {
        let p = places(2);
        let found = fuse(Some(vec![(p[1], 0.5), (p[0], 0.4)]), Some(Vec::new()), 10);
        assert_eq!(found.iter().map(|f| f.place.ordinal).collect::<Vec<_>>(), [1, 0]);
    }
}
