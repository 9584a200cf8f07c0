//! Cuts texts into batches, and finds the texts that a model refuses.

use std::{collections::VecDeque, ops::Range};

use crate::{Error, Kind, Model};

/// After so many refused texts and none accepted, the model itself is in doubt and is asked to
/// embed texts that are known to be good.
const DOUBTFUL_REFUSALS: usize = 8;

/// The answer of [`embed_each`].
#[derive(Debug)]
pub struct Each {
    /// One vector or refusal for each text, in the order of the texts. Each error is `Rejected`.
    pub vectors: Vec<Result<Vec<f32>, Error>>,
    /// The tokens that the model counted.
    pub tokens: u64,
}

/// A cautious guess of a text's tokens, for models whose tokenizer is not here: one token for each
/// three bytes, which is near for most languages and high for English.
#[must_use]
pub fn estimate_tokens(text: &str) -> usize {
    text.len() / 3 + 1
}

/// Embeds any number of texts, batch after batch. A batch that the model refuses is halved until
/// only the poisonous texts are refused.
///
/// # Errors
/// What is not about a text: the call as a whole failed.
pub async fn embed_each(model: &dyn Model, texts: &[String], kind: Kind) -> Result<Each, Error> {
    let mut vectors: Vec<Option<Result<Vec<f32>, Error>>> = vec![None; texts.len()];
    let mut tokens = 0;
    let (mut accepted, mut refused) = (0, 0);
    let mut queue = cut(texts, model.max_batch_items(), model.max_batch_tokens());
    while let Some(range) = queue.pop_front() {
        match model.embed(texts[range.clone()].to_vec(), kind).await {
            Ok(answer) => {
                accepted += range.len();
                tokens += answer.tokens;
                for (slot, vector) in vectors[range].iter_mut().zip(answer.vectors) {
                    *slot = Some(Ok(vector));
                }
            }
            Err(Error::Rejected { item, reason }) => match narrow(&range, item) {
                Narrowed::To(index) => {
                    vectors[index] = Some(Err(Error::Rejected { item: Some(index), reason }));
                    refused += 1;
                    requeue(&mut queue, [range.start..index, index + 1..range.end]);
                    if accepted == 0 && refused == DOUBTFUL_REFUSALS {
                        model.verify().await?;
                    }
                }
                Narrowed::Halves(middle) => requeue(&mut queue, [range.start..middle, middle..range.end]),
            },
            Err(error) => return Err(error),
        }
    }
    let missing = || Error::Protocol { reason: "a text has no vector".to_owned() };
    let vectors = vectors.into_iter().map(|slot| slot.ok_or_else(missing)).collect::<Result<_, _>>()?;
    Ok(Each { vectors, tokens })
}

/// Where the poison of a refused range is.
enum Narrowed {
    /// At this text.
    To(usize),
    /// Somewhere; the range is halved here.
    Halves(usize),
}

fn narrow(range: &Range<usize>, item: Option<usize>) -> Narrowed {
    match item.filter(|item| *item < range.len()) {
        Some(item) => Narrowed::To(range.start + item),
        None if range.len() == 1 => Narrowed::To(range.start),
        None => Narrowed::Halves(range.start + range.len() / 2),
    }
}

fn requeue(queue: &mut VecDeque<Range<usize>>, parts: [Range<usize>; 2]) {
    for part in parts.into_iter().rev().filter(|part| !part.is_empty()) {
        queue.push_front(part);
    }
}

/// Ranges of neighbours within both limits. A text over the token limit stands alone.
fn cut(texts: &[String], max_items: usize, max_tokens: usize) -> VecDeque<Range<usize>> {
    let mut ranges = VecDeque::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let size = estimate_tokens(text);
        let full = index - start == max_items.max(1) || tokens + size > max_tokens;
        if full && index > start {
            ranges.push_back(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += size;
    }
    if start < texts.len() {
        ranges.push_back(start..texts.len());
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_both_limits_and_lose_no_text() {
        let texts: Vec<String> = (0..100).map(|n| "x".repeat(n * 7 % 90)).collect();
        let ranges = cut(&texts, 8, 60);
        let mut next = 0;
        for range in &ranges {
            assert_eq!(range.start, next);
            let tokens: usize = texts[range.clone()].iter().map(|text| estimate_tokens(text)).sum();
            assert!(range.len() <= 8 && tokens <= 60, "{range:?} has {tokens} tokens");
            next = range.end;
        }
        assert_eq!(next, texts.len());
    }

    #[test]
    fn a_text_over_the_limit_stands_alone() {
        let texts = ["a".to_owned(), "b".repeat(900), "c".to_owned()];
        assert_eq!(cut(&texts, 8, 10), [0..1, 1..2, 2..3]);
        assert!(cut(&[], 8, 10).is_empty());
    }
}
