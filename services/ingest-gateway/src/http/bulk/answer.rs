//! The lines of an answer between who makes them and who reads them.
//!
//! Many clients read nothing before they have sent everything, so lines are kept and nobody waits for their reader. How
//! many bytes of them wait is known, and what nobody reads any more is dropped.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use tokio_util::sync::CancellationToken;

/// Whether more lines come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// All are there.
    Whole,
    /// Some will never come.
    Cut,
}

#[derive(Debug)]
struct Queue {
    lines: VecDeque<Bytes>,
    bytes: usize,
    /// Lines that were read.
    taken: u64,
    end: End,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Cancelled when the reader is gone.
    gone: CancellationToken,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an answer.
pub(super) fn answer() -> (Writer, Reader) {
    let queue = Queue { lines: VecDeque::new(), bytes: 0, taken: 0, end: End::NotYet, waker: None };
    let shared = Arc::new(Shared { queue: Mutex::new(queue), gone: CancellationToken::new() });
    (Writer(Arc::clone(&shared)), Reader(shared))
}

/// Adds lines. An answer whose writer is dropped before its end is cut off.
#[derive(Debug)]
pub(super) struct Writer(Arc<Shared>);

impl Writer {
    /// Adds a line. Where nobody reads any more, it is dropped.
    pub(super) fn send(&self, line: Bytes) {
        if self.0.gone.is_cancelled() {
            return;
        }
        let mut queue = self.0.lock();
        queue.bytes += line.len();
        queue.lines.push_back(line);
        wake(queue);
    }

    /// What is known of the reader.
    pub(super) fn hearing(&self) -> Hearing {
        Hearing(Arc::clone(&self.0))
    }

    /// Says that all lines are there, and waits until they are read. What waits is dropped, and the answer is cut off, when
    /// nobody has read anything for `idle`.
    pub(super) async fn end(self, idle: Duration) {
        self.set_end(End::Whole);
        let mut taken = self.0.lock().taken;
        while tokio::time::timeout(idle, self.0.gone.cancelled()).await.is_err() {
            let mut queue = self.0.lock();
            if queue.taken == taken {
                (queue.lines, queue.bytes, queue.end) = (VecDeque::new(), 0, End::Cut);
                return;
            }
            taken = queue.taken;
        }
    }

    fn set_end(&self, end: End) {
        let mut queue = self.0.lock();
        if queue.end == End::NotYet {
            queue.end = end;
            wake(queue);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.set_end(End::Cut);
    }
}

fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Whether somebody reads, and how much waits to be read. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Hearing(Arc<Shared>);

impl Hearing {
    /// Whether the reader is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.0.gone.is_cancelled()
    }

    /// Waits until the reader is gone.
    pub(super) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    /// How many bytes wait.
    pub(super) fn unread(&self) -> usize {
        self.0.lock().bytes
    }
}

/// The answer's body.
#[derive(Debug)]
pub(super) struct Reader(Arc<Shared>);

impl Stream for Reader {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.0.lock();
        if let Some(line) = queue.lines.pop_front() {
            queue.bytes -= line.len();
            queue.taken += 1;
            return Poll::Ready(Some(Ok(line)));
        }
        match queue.end {
            End::NotYet => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
            End::Whole => Poll::Ready(None),
            End::Cut => Poll::Ready(Some(Err(io::Error::other("the answer is cut off")))),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.gone.cancel();
        let mut queue = self.0.lock();
        (queue.lines, queue.bytes) = (VecDeque::new(), 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn lines_are_kept_until_they_are_read_and_counted() {
        let (writer, mut reader) = answer();
        let hearing = writer.hearing();
        writer.send("one".into());
        writer.send("three".into());
        assert_eq!((hearing.unread(), hearing.is_gone()), (8, false));
        assert_eq!(reader.next().await.unwrap().unwrap(), "one");
        assert_eq!(hearing.unread(), 5);
        let ended = tokio::spawn(writer.end(LONG));
        assert_eq!(reader.next().await.unwrap().unwrap(), "three");
        assert!(reader.next().await.is_none());
        drop(reader);
        ended.await.unwrap();
        assert!(hearing.is_gone());
    }

    #[tokio::test]
    async fn who_waits_for_a_line_is_told_of_it_and_of_a_writer_that_is_gone() {
        let (writer, mut reader) = answer();
        let read = tokio::spawn(async move { (reader.next().await, reader.next().await) });
        tokio::task::yield_now().await;
        writer.send("one".into());
        tokio::task::yield_now().await;
        drop(writer);
        let (line, end) = read.await.unwrap();
        assert_eq!(line.unwrap().unwrap(), "one");
        assert!(end.unwrap().is_err(), "what is cut off does not look whole");
    }

    #[tokio::test]
    async fn what_nobody_reads_is_dropped() {
        let (writer, mut reader) = answer();
        let hearing = writer.hearing();
        for _ in 0..2 {
            writer.send("line".into());
        }
        assert_eq!(reader.next().await.unwrap().unwrap(), "line");
        writer.end(Duration::from_millis(20)).await;
        assert_eq!(hearing.unread(), 0);
        assert!(reader.next().await.unwrap().is_err());
    }
}
