//! The lines of an answer between who makes them and who reads them.
//!
//! Many clients read nothing before they have sent everything, so lines are kept and nobody waits for their reader. A
//! request has so many items at most, and a line so many bytes (`LONGEST_LINE`), which bounds what waits; what nobody reads
//! any more is dropped.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::Stream;
use tokio::time::{Duration, Instant};
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

    /// Drops what waits. Where nothing does, the reader has all of it.
    fn cut(&self) {
        let mut queue = self.lock();
        if !queue.lines.is_empty() {
            (queue.lines, queue.end) = (VecDeque::new(), End::Cut);
        }
    }
}

/// Makes an answer.
pub(super) fn answer() -> (Writer, Reader) {
    let queue = Queue { lines: VecDeque::new(), taken: 0, end: End::NotYet, waker: None };
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
        queue.lines.push_back(line);
        wake(queue);
    }

    /// What is known of the reader.
    pub(super) fn hearing(&self) -> Hearing {
        Hearing(Arc::clone(&self.0))
    }

    /// Says that all lines are there, and waits until they are read. What waits is dropped, and the answer is cut off, when
    /// nobody has read anything for `idle`, and at `until` whatever is read.
    pub(super) async fn end(self, idle: Duration, until: Instant) {
        self.set_end(End::Whole);
        let mut taken = self.0.lock().taken;
        loop {
            tokio::select! {
                () = self.0.gone.cancelled() => return,
                () = tokio::time::sleep_until(until) => return self.0.cut(),
                () = tokio::time::sleep(idle) => {}
            }
            let now = self.0.lock().taken;
            if now == taken {
                return self.0.cut();
            }
            taken = now;
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

/// Whether somebody reads. Cheap to clone.
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
}

/// The answer's body.
#[derive(Debug)]
pub(super) struct Reader(Arc<Shared>);

impl Stream for Reader {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.0.lock();
        if let Some(line) = queue.lines.pop_front() {
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
        self.0.lock().lines = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// Far enough off for what does not wait for it.
    fn late() -> Instant {
        Instant::now() + LONG
    }

    #[tokio::test]
    async fn lines_are_kept_until_they_are_read() {
        let (writer, mut reader) = answer();
        let hearing = writer.hearing();
        writer.send("one".into());
        writer.send("three".into());
        assert_eq!(reader.next().await.unwrap().unwrap(), "one");
        let ended = tokio::spawn(writer.end(LONG, late()));
        assert_eq!(reader.next().await.unwrap().unwrap(), "three");
        assert!(reader.next().await.is_none() && !hearing.is_gone());
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
        for _ in 0..2 {
            writer.send("line".into());
        }
        assert_eq!(reader.next().await.unwrap().unwrap(), "line");
        writer.end(Duration::from_millis(20), late()).await;
        assert!(reader.0.lock().lines.is_empty());
        assert!(reader.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_slow_reader_does_not_hold_an_answer_for_ever() {
        let (writer, mut reader) = answer();
        for _ in 0..2 {
            writer.send("line".into());
        }
        assert_eq!(reader.next().await.unwrap().unwrap(), "line");
        // Nobody was idle for so long.
        writer.end(LONG, Instant::now() + Duration::from_millis(20)).await;
        assert!(reader.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn an_answer_that_was_read_to_its_end_is_whole_however_long_its_reader_stays() {
        let (writer, mut reader) = answer();
        writer.send("line".into());
        assert_eq!(reader.next().await.unwrap().unwrap(), "line");
        writer.end(Duration::from_millis(20), late()).await;
        assert!(reader.next().await.is_none());
    }
}
