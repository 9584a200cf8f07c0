//! The measures of a ranking against judgements, without I/O, as trec_eval computes them.

use std::collections::BTreeMap;

use serde::Serialize;

/// How relevant documents are to one query, by their place in the corpus. Only what is above zero stands here.
pub(super) type Judgements = BTreeMap<usize, u32>;

/// The measures of one query, or their means over many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Measures {
    /// Normalised discounted cumulative gain of the first ten, with the judgement itself as the gain.
    #[serde(rename = "ndcg@10")]
    pub(super) ndcg_10: f64,
    /// The part of the relevant documents that is among the first ten.
    #[serde(rename = "recall@10")]
    pub(super) recall_10: f64,
    /// The part that is among the first hundred.
    #[serde(rename = "recall@100")]
    pub(super) recall_100: f64,
    /// One divided by the rank of the first relevant document; 0 where none was found.
    pub(super) mrr: f64,
}

impl Measures {
    /// Judges a ranking, the best document first, each once.
    pub(super) fn of(ranking: &[usize], judgements: &Judgements) -> Measures {
        let gain = |document: &usize| judgements.get(document).copied().unwrap_or(0);
        let found: Vec<u32> = ranking.iter().map(gain).collect();
        let mut best: Vec<u32> = judgements.values().copied().collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        let ideal = discounted(&best);
        let first = found.iter().position(|gain| *gain > 0);
        Measures {
            ndcg_10: if ideal > 0.0 { discounted(&found) / ideal } else { 0.0 },
            recall_10: recall(&found, 10, judgements.len()),
            recall_100: recall(&found, 100, judgements.len()),
            mrr: first.map_or(0.0, |place| 1.0 / (place + 1) as f64),
        }
    }

    /// The means of many; zeros for none.
    pub(super) fn mean(all: &[Measures]) -> Measures {
        let mean = |of: fn(&Measures) -> f64| all.iter().map(of).sum::<f64>() / all.len().max(1) as f64;
        Measures {
            ndcg_10: mean(|one| one.ndcg_10),
            recall_10: mean(|one| one.recall_10),
            recall_100: mean(|one| one.recall_100),
            mrr: mean(|one| one.mrr),
        }
    }
}

/// The discounted gain of the first ten: each divided by the logarithm to base 2 of its rank plus one.
fn discounted(gains: &[u32]) -> f64 {
    gains.iter().take(10).zip(2u32..).map(|(gain, place)| f64::from(*gain) / f64::from(place).log2()).sum()
}

fn recall(found: &[u32], depth: usize, relevant: usize) -> f64 {
    let hits = found.iter().take(depth).filter(|gain| **gain > 0).count();
    hits as f64 / relevant.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn a_perfect_ranking_has_one_everywhere() {
        let judgements = Judgements::from([(3, 4), (5, 2), (8, 1)]);
        let measures = Measures::of(&[3, 5, 8, 1], &judgements);
        for value in [measures.ndcg_10, measures.recall_10, measures.recall_100, measures.mrr] {
            assert!(close(value, 1.0), "{measures:?}");
        }
    }

    #[test]
    fn gains_are_discounted_by_their_rank() {
        let judgements = Judgements::from([(1, 3), (2, 1)]);
        let measures = Measures::of(&[9, 2, 1], &judgements);
        let got = 1.0 / 3f64.log2() + 3.0 / 4f64.log2();
        let ideal = 3.0 + 1.0 / 3f64.log2();
        assert!(close(measures.ndcg_10, got / ideal), "{measures:?}");
        assert!(close(measures.mrr, 0.5));
    }

    #[test]
    fn what_comes_late_counts_for_the_deep_recall_only() {
        let judgements = Judgements::from([(1, 1), (50, 1), (200, 1)]);
        let ranking: Vec<usize> = (1..=300).collect();
        let measures = Measures::of(&ranking, &judgements);
        assert!(
            close(measures.recall_10, 1.0 / 3.0) && close(measures.recall_100, 2.0 / 3.0),
            "{measures:?}"
        );
        assert_eq!(Measures::of(&[], &judgements), Measures::default());
    }

    #[test]
    fn means_are_over_queries() {
        let one = Measures { ndcg_10: 1.0, recall_10: 1.0, recall_100: 1.0, mrr: 1.0 };
        assert!(close(Measures::mean(&[one, Measures::default()]).ndcg_10, 0.5));
        assert_eq!(Measures::mean(&[]), Measures::default());
    }
}
