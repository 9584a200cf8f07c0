//! Cuts texts into batches, and finds the texts that a model refuses.

use std::{collections::VecDeque, ops::Range, time::Instant};

use crate::{Embeddings, Error, Kind, Model, Series};

/// After so many refused texts and none accepted, the model itself is in doubt and is asked to
/// embed texts that are known to be good.
const DOUBTFUL_REFUSALS: usize = 8;

/// The answer of [`embed_each`].
#[derive(Debug)]
pub struct Each {
    /// One vector or refusal for each text, in the order of the texts. Each error is `Rejected`.
    pub vectors: Vec<Result<Vec<f32>, Error>>,
    /// What was asked of the model and answered.
    pub calls: Vec<Call>,
}

/// A cautious guess of a text's tokens, for models whose tokenizer is not here: one token for each
/// three bytes, which is near for most languages and high for English.
#[must_use]
pub fn estimate_tokens(text: &str) -> usize {
    text.len() / 3 + 1
}

/// A call of the model that it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The places of its texts.
    pub texts: Range<usize>,
    /// The tokens that the model counted; 0 where a provider does not say.
    pub tokens: u64,
}

/// As far as [`embed_some`] came.
#[derive(Debug)]
pub struct Reached {
    /// A vector or refusal of each text that was reached, in the order of the texts.
    pub vectors: Vec<Option<Result<Vec<f32>, Error>>>,
    /// What was asked of the model and answered: that is what it costs, also where it ended before its end.
    pub calls: Vec<Call>,
    /// What ended it before all texts were reached.
    pub ended: Option<Error>,
}

/// Embeds any number of texts, batch after batch. A batch that the model refuses is halved until
/// only the poisonous texts are refused.
///
/// # Errors
/// What is not about a text: the call as a whole failed.
pub async fn embed_each(model: &dyn Model, texts: &[String], kind: Kind) -> Result<Each, Error> {
    let Reached { vectors, calls, ended } = embed_some(model, texts, kind, None).await;
    if let Some(error) = ended {
        return Err(error);
    }
    let missing = || Error::Protocol { reason: "a text has no vector".to_owned() };
    let vectors = vectors.into_iter().map(|slot| slot.ok_or_else(missing)).collect::<Result<_, _>>()?;
    Ok(Each { vectors, calls })
}

/// As [`embed_each`], but what was embedded before a failure is kept, and from `until` on no other batch is begun: then it
/// ends as if the provider were at its limit.
pub async fn embed_some(model: &dyn Model, texts: &[String], kind: Kind, until: Option<Instant>) -> Reached {
    let mut walk = Walk {
        model,
        texts,
        kind,
        queue: std::iter::once(0..texts.len()).collect(),
        reached: Reached { vectors: vec![None; texts.len()], calls: Vec::new(), ended: None },
        accepted: 0,
        refused: 0,
    };
    let mut series = Series::until(until);
    let ended = walk.run(until, &mut series).await.err();
    model.end_series(series).await;
    Reached { ended, ..walk.reached }
}

/// Texts on their way through a model, batch after batch.
struct Walk<'a> {
    model: &'a dyn Model,
    texts: &'a [String],
    kind: Kind,
    /// What is left, in order.
    queue: VecDeque<Range<usize>>,
    reached: Reached,
    accepted: usize,
    refused: usize,
}

impl Walk<'_> {
    async fn run(&mut self, until: Option<Instant>, series: &mut Series) -> Result<(), Error> {
        while let Some(range) = self.next() {
            if self.accepted + self.refused > 0 && until.is_some_and(|until| Instant::now() >= until) {
                return Err(Error::RateLimited { retry_after: None });
            }
            let (batches, tokens) = self.following();
            series.expect(batches, tokens);
            match self.model.embed_next(self.texts[range.clone()].to_vec(), self.kind, series).await {
                Ok(answer) => self.accept(range, answer),
                Err(Error::Rejected { item, reason }) => self.refuse(&range, item, reason).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next batch. Cut here, since what fits changes with what is learned of the provider's limits.
    fn next(&mut self) -> Option<Range<usize>> {
        let range = self.queue.pop_front().filter(|range| !range.is_empty())?;
        let end = self.end_of(&range);
        self.put_back([end..end, end..range.end]);
        Some(range.start..end)
    }

    fn end_of(&self, range: &Range<usize>) -> usize {
        fits(self.texts, range, self.model.max_batch_items(), self.model.max_batch_tokens())
    }

    /// How many batches follow, and their tokens.
    fn following(&self) -> (usize, usize) {
        let (mut batches, mut tokens) = (0, 0);
        for range in &self.queue {
            let mut rest = range.clone();
            while !rest.is_empty() {
                rest.start = self.end_of(&rest);
                batches += 1;
            }
            tokens += self.texts[range.clone()].iter().map(|text| estimate_tokens(text)).sum::<usize>();
        }
        (batches, tokens)
    }

    fn accept(&mut self, range: Range<usize>, answer: Embeddings) {
        self.accepted += range.len();
        self.reached.calls.push(Call { texts: range.clone(), tokens: answer.tokens });
        for (slot, vector) in self.reached.vectors[range].iter_mut().zip(answer.vectors) {
            *slot = Some(Ok(vector));
        }
    }

    /// Keeps a refusal of one text, or halves the batch to find it.
    async fn refuse(
        &mut self,
        range: &Range<usize>,
        item: Option<usize>,
        reason: String,
    ) -> Result<(), Error> {
        let index = match narrow(range, item) {
            Narrowed::To(index) => index,
            Narrowed::Halves(middle) => {
                self.put_back([range.start..middle, middle..range.end]);
                return Ok(());
            }
        };
        self.reached.vectors[index] = Some(Err(Error::Rejected { item: Some(index), reason }));
        self.refused += 1;
        self.put_back([range.start..index, index + 1..range.end]);
        if self.accepted == 0 && self.refused == DOUBTFUL_REFUSALS {
            self.model.verify().await?;
        }
        Ok(())
    }

    /// Puts parts before all others.
    fn put_back(&mut self, parts: [Range<usize>; 2]) {
        for part in parts.into_iter().rev().filter(|part| !part.is_empty()) {
            self.queue.push_front(part);
        }
    }
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

/// Where a batch ends that begins with the range and keeps both limits. A text over the token limit stands alone.
fn fits(texts: &[String], range: &Range<usize>, max_items: usize, max_tokens: usize) -> usize {
    let mut tokens = 0;
    let is_over = |(count, text): (usize, &String)| {
        tokens += estimate_tokens(text);
        count > 0 && (count >= max_items.max(1) || tokens > max_tokens)
    };
    texts[range.clone()].iter().enumerate().position(is_over).map_or(range.end, |count| range.start + count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Mutex;

    use futures::future::BoxFuture;

    use super::*;

    /// Remembers its batches, and takes fewer tokens from the second one on.
    #[derive(Debug)]
    struct Shrinking {
        batches: Mutex<Vec<usize>>,
        error_at: usize,
    }

    impl Model for Shrinking {
        fn id(&self) -> &str {
            "shrinking"
        }

        fn dimensions(&self) -> usize {
            1
        }

        fn max_batch_items(&self) -> usize {
            100
        }

        fn max_batch_tokens(&self) -> usize {
            if self.batches.lock().unwrap().is_empty() { 40 } else { 10 }
        }

        fn embed(&self, texts: Vec<String>, _: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
            let mut batches = self.batches.lock().unwrap();
            batches.push(texts.len());
            let limited = batches.len() == self.error_at;
            Box::pin(async move {
                if limited {
                    return Err(Error::RateLimited { retry_after: None });
                }
                Ok(Embeddings { vectors: vec![vec![1.0]; texts.len()], tokens: 1 })
            })
        }

        fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
            Box::pin(async { Ok(()) })
        }
    }

    async fn embed(error_at: usize, until: Option<Instant>) -> (Reached, Vec<usize>) {
        let model = Shrinking { batches: Mutex::default(), error_at };
        let reached = embed_some(&model, &vec!["xxxxxx".to_owned(); 24], Kind::Passage, until).await;
        (reached, model.batches.into_inner().unwrap())
    }

    #[tokio::test]
    async fn batches_become_smaller_when_less_fits() {
        let (reached, batches) = embed(0, None).await;
        assert_eq!(batches, [13, 3, 3, 3, 2]);
        assert!(
            reached.ended.is_none() && reached.vectors.iter().all(|vector| matches!(vector, Some(Ok(_))))
        );
    }

    #[tokio::test]
    async fn what_was_embedded_before_a_failure_is_kept() {
        let (reached, batches) = embed(3, None).await;
        assert_eq!((batches.len(), reached.vectors.iter().flatten().count()), (3, 16));
        assert!(reached.ended.is_some_and(|error| error.is_retryable()));
    }

    #[tokio::test]
    async fn no_batch_is_begun_when_time_is_over_but_one_is_always_done() {
        let (reached, batches) = embed(0, Some(Instant::now())).await;
        assert_eq!((batches.len(), reached.vectors.iter().flatten().count()), (1, 13));
        assert_eq!(reached.ended, Some(Error::RateLimited { retry_after: None }));
    }

    #[test]
    fn batches_keep_both_limits_and_lose_no_text() {
        let texts: Vec<String> = (0..100).map(|n| "x".repeat(n * 7 % 90)).collect();
        let mut next = 0;
        while next < texts.len() {
            let end = fits(&texts, &(next..texts.len()), 8, 60);
            let tokens: usize = texts[next..end].iter().map(|text| estimate_tokens(text)).sum();
            assert!(end > next && end - next <= 8 && tokens <= 60, "{next}..{end} has {tokens} tokens");
            next = end;
        }
    }

    #[test]
    fn a_text_over_the_limit_stands_alone() {
        let texts = ["a".to_owned(), "b".repeat(900), "c".to_owned()];
        assert_eq!([0, 1, 2].map(|start| fits(&texts, &(start..3), 8, 10)), [1, 2, 3]);
        assert_eq!(fits(&[], &(0..0), 8, 10), 0);
    }
}
