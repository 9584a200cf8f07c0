//! The threads of a local model. All calls share them, so that a model told to use one thread uses one, however many
//! batches are asked for at once.
//!
//! Calls take turns, one job each, so that a small one does not wait for a large one; queries go before all others.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::{Error, Kind};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that run jobs until they are dropped.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Arc<Queue>,
    /// One pool for each thread: arithmetic inside a job does not spread over others.
    pools: Vec<ThreadPool>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The jobs of each call that are not begun.
    calls: VecDeque<Call>,
    is_closed: bool,
}

struct Call {
    kind: Kind,
    jobs: VecDeque<Job>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} calls)", self.lock().calls.len())
    }
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// `Misconfigured` where the system allows no more threads.
    pub(crate) fn start(threads: usize) -> Result<Self, Error> {
        let mut workers = Self { queue: Arc::default(), pools: Vec::with_capacity(threads) };
        for _ in 0..threads.max(1) {
            let pool = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "model".to_owned()).build();
            let pool = pool.map_err(|error| Error::Misconfigured {
                reason: format!("the local model's threads cannot be started: {error}"),
            })?;
            let queue = Arc::clone(&workers.queue);
            pool.spawn(move || queue.work());
            workers.pools.push(pool);
        }
        Ok(workers)
    }

    /// The number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.pools.len()
    }

    /// Runs jobs, and gives their results in the same order. When the future is dropped, jobs that have not begun
    /// never do.
    ///
    /// # Errors
    /// `Transient` where a job panicked.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        kind: Kind,
        jobs: impl IntoIterator<Item = impl FnOnce() -> R + Send + 'static>,
    ) -> Result<Vec<R>, Error> {
        let (jobs, receivers): (VecDeque<Job>, Vec<_>) = jobs.into_iter().map(with_receiver).unzip();
        self.queue.add(Call { kind, jobs });
        let mut results = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            let ended = |_| Error::Transient { reason: "a thread of the local model panicked".to_owned() };
            results.push(receiver.await.map_err(ended)?);
        }
        Ok(results)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.changed.notify_all();
    }
}

/// The job, and where its result comes out.
fn with_receiver<R: Send + 'static>(job: impl FnOnce() -> R + Send + 'static) -> (Job, oneshot::Receiver<R>) {
    let (sender, receiver) = oneshot::channel();
    let job = move || {
        if sender.is_closed() {
            return;
        }
        // A panic is told by dropping the sender; the thread goes on with the next job.
        if let Ok(result) = catch_unwind(AssertUnwindSafe(job)) {
            let _ = sender.send(result);
        }
    };
    (Box::new(job), receiver)
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, call: Call) {
        let several = call.jobs.len() > 1;
        self.lock().put(call);
        if several { self.changed.notify_all() } else { self.changed.notify_one() }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// Waits for the next job; none when the model is gone.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(job) = state.take() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    /// Queues a call: a query behind the other queries, everything else at the end.
    fn put(&mut self, call: Call) {
        if call.jobs.is_empty() {
            return;
        }
        let place = match call.kind {
            Kind::Query => self.calls.iter().take_while(|other| other.kind == Kind::Query).count(),
            Kind::Passage => self.calls.len(),
        };
        self.calls.insert(place, call);
    }

    /// The next job of the first call, which then waits for its next turn.
    fn take(&mut self) -> Option<Job> {
        let mut call = self.calls.pop_front()?;
        let job = call.jobs.pop_front();
        self.put(call);
        job
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{collections::HashSet, sync::mpsc, thread};

    use futures::{FutureExt, future::join_all};

    use super::*;

    /// A job that says that it runs and then waits until it may end.
    fn gate() -> (impl FnOnce() + Send, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (begun, begins) = mpsc::channel();
        let (open, opened) = mpsc::channel();
        let job = move || {
            begun.send(()).unwrap();
            opened.recv().unwrap();
        };
        (job, begins, open)
    }

    #[tokio::test]
    async fn one_thread_computes_everything_when_told_so() {
        let workers = Workers::start(1).unwrap();
        let look = || (thread::current().id(), rayon::current_num_threads());
        let calls = (0..8).map(|_| workers.run(Kind::Passage, (0..20).map(|_| look)));
        let seen: HashSet<_> = join_all(calls).await.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert!(seen.iter().all(|(_, threads)| *threads == 1));
    }

    #[tokio::test]
    async fn several_threads_compute_at_once() {
        let workers = Workers::start(3).unwrap();
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let jobs = (0..3).map(|n| {
            let barrier = Arc::clone(&barrier);
            move || {
                barrier.wait();
                n
            }
        });
        assert_eq!(workers.run(Kind::Passage, jobs).await.unwrap(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn calls_take_turns_and_queries_go_first() {
        let workers = Workers::start(1).unwrap();
        let (job, begins, open) = gate();
        let held = workers.run(Kind::Passage, [job]);
        let order = Arc::new(Mutex::new(Vec::new()));
        let call = |kind, name: &'static str, jobs: usize| {
            let order = Arc::clone(&order);
            workers.run(
                kind,
                (0..jobs).map(move |_| {
                    let order = Arc::clone(&order);
                    move || order.lock().unwrap().push(name)
                }),
            )
        };
        let mut held = Box::pin(held);
        assert!(held.as_mut().now_or_never().is_none());
        begins.recv().unwrap();
        let others =
            [call(Kind::Passage, "large", 4), call(Kind::Passage, "small", 1), call(Kind::Query, "query", 2)];
        let mut others: Vec<_> = others.into_iter().map(Box::pin).collect();
        assert!(others.iter_mut().all(|call| call.as_mut().now_or_never().is_none()));
        open.send(()).unwrap();
        held.await.unwrap();
        join_all(others).await;
        let expected = ["query", "query", "large", "small", "large", "large", "large"];
        assert_eq!(*order.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_computed() {
        let workers = Workers::start(1).unwrap();
        let (job, begins, open) = gate();
        let mut held = Box::pin(workers.run(Kind::Passage, [job]));
        assert!(held.as_mut().now_or_never().is_none());
        begins.recv().unwrap();
        let computed = Arc::new(Mutex::new(0));
        let count = Arc::clone(&computed);
        let mut dropped = Box::pin(workers.run(Kind::Passage, [move || *count.lock().unwrap() += 1]));
        assert!(dropped.as_mut().now_or_never().is_none());
        drop(dropped);
        open.send(()).unwrap();
        held.await.unwrap();
        workers.run(Kind::Passage, [|| ()]).await.unwrap();
        assert_eq!(*computed.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_call_only() {
        let workers = Workers::start(1).unwrap();
        let jobs = [true, false].map(|panics| move || assert!(!panics));
        assert!(workers.run(Kind::Passage, jobs).await.unwrap_err().is_retryable());
        assert_eq!(workers.run(Kind::Passage, [|| 7]).await.unwrap(), [7]);
    }
}
