//! Calls that come while others are on their way go together in the next transaction.
//!
//! A transaction for each row costs the server several times what the row costs. Nothing is waited for:
//! a call that comes alone goes alone, at once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use crate::Error;

/// At most so many calls go together.
const TOGETHER: usize = 64;
/// So many groups are on their way at once.
const GROUPS: usize = 2;

type Waiting<Q, A> = Mutex<Vec<(Q, oneshot::Sender<Result<A, Error>>)>>;

/// Collects calls of one kind. Clones collect together.
pub(crate) struct Together<Q, A> {
    waiting: Arc<Waiting<Q, A>>,
    turns: Arc<Semaphore>,
}

impl<Q, A> Default for Together<Q, A> {
    fn default() -> Self {
        Self { waiting: Arc::default(), turns: Arc::new(Semaphore::new(GROUPS)) }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Together<Q, A> {
    /// Answers a call. `work` answers a group of them, in order; it runs in a task of its own, so a
    /// caller that goes away takes no other's answer with it.
    pub(crate) async fn call<W, F>(&self, question: Q, work: W) -> Result<A, Error>
    where
        W: FnOnce(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<Result<A, Error>>> + Send,
    {
        let (sender, mut answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((question, sender));
        let gone = |_| Error::Unavailable("a group of calls broke off".to_owned());
        tokio::select! {
            biased;
            answered = &mut answer => return answered.unwrap_or_else(|error| Err(gone(error))),
            turn = Arc::clone(&self.turns).acquire_owned() => {
                let waiting = Arc::clone(&self.waiting);
                tokio::spawn(async move {
                    let _turn = turn;
                    let (questions, senders): (Vec<Q>, Vec<_>) = take(&waiting).into_iter().unzip();
                    if questions.is_empty() {
                        return;
                    }
                    for (sender, answer) in senders.into_iter().zip(work(questions).await) {
                        // Nobody listens any more: the caller went away.
                        let _ = sender.send(answer);
                    }
                });
            }
        }
        answer.await.unwrap_or_else(|error| Err(gone(error)))
    }
}

fn take<Q, A>(waiting: &Waiting<Q, A>) -> Vec<(Q, oneshot::Sender<Result<A, Error>>)> {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let count = waiting.len().min(TOGETHER);
    waiting.drain(..count).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn calls_go_together_while_others_are_on_their_way_and_each_gets_its_answer() {
        let together = Together::<usize, usize>::default();
        let groups = Arc::new(AtomicUsize::new(0));
        let calls = (0..300).map(|n| {
            let groups = Arc::clone(&groups);
            together.call(n, |questions| async move {
                groups.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                questions.into_iter().map(|n| Ok(n * 2)).collect()
            })
        });
        let answers: Vec<usize> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, (0..300).map(|n| n * 2).collect::<Vec<_>>());
        assert!(groups.load(Ordering::Relaxed) < 300, "nothing went together");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_takes_no_answer_with_it() {
        let together = Arc::new(Together::<u32, u32>::default());
        let gate = Arc::new(Notify::new());
        let call = |n: u32| {
            let (together, gate) = (Arc::clone(&together), Arc::clone(&gate));
            tokio::spawn(async move {
                together
                    .call(n, |questions| async move {
                        gate.notified().await;
                        questions.into_iter().map(Ok).collect()
                    })
                    .await
            })
        };
        let calls: Vec<_> = (0..6).map(call).collect();
        while together.turns.available_permits() == GROUPS {
            tokio::task::yield_now().await;
        }
        calls[0].abort();
        calls[1].abort();
        let freed = async {
            loop {
                gate.notify_waiters();
                tokio::task::yield_now().await;
            }
        };
        let rest = join_all(calls.into_iter().skip(2));
        let answers = tokio::select! { answers = rest => answers, () = freed => unreachable!() };
        for (n, answer) in (2..6).zip(answers) {
            assert_eq!(answer.unwrap().unwrap(), n);
        }
    }
}
