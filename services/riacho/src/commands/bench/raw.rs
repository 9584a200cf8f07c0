//! What a client reaches that does nothing but the four commands of a hop, pipelined: the limit to compare with.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use riacho_local::resp::Connection;

use super::server::Server;

/// So many entries are read and handed on at once.
const BATCH: usize = 100;
const SOURCE: &str = "raw:source";
const TARGET: &str = "raw:target";
const GROUP: &str = "raw";

/// Connections that hand on at once: while one waits for the server, the other works.
const CONNECTIONS: usize = 2;

/// Events a second of XREADGROUP, XACK, XDEL and XADD, and the processor time of both sides for an event.
pub(super) fn rate(server: &Server, events: usize, bytes: usize) -> anyhow::Result<(f64, [f64; 2])> {
    let mut connection = server.connection()?;
    let body = vec![b'x'; bytes];
    fill(&mut connection, SOURCE, events, |_| body.clone())?;
    connection.ask(&["XGROUP", "CREATE", SOURCE, GROUP, "0"])?;
    let processor = server.processor_time()?;
    let start = Instant::now();
    let handed_on = thread::scope(|scope| {
        let hands = [(); CONNECTIONS].map(|()| scope.spawn(|| hand_on(server)));
        hands.map(|hand| hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let seconds = start.elapsed().as_secs_f64();
    let processor_us = super::hop::micros_each(server, processor, events)?;
    let handed_on = handed_on.into_iter().sum::<anyhow::Result<usize>>()?;
    anyhow::ensure!(handed_on == events, "{handed_on} of {events} events were handed on");
    Ok((events as f64 / seconds, processor_us))
}

/// Hands on until nothing is left; says how many.
fn hand_on(server: &Server) -> anyhow::Result<usize> {
    let mut connection = server.connection()?;
    push_read(&mut connection);
    connection.flush()?;
    let mut handed_on = 0;
    loop {
        let reply = connection.reply()?;
        let Some(stream) = reply.list().first() else { return Ok(handed_on) };
        let entries = stream.list()[1].list();
        let ids: Vec<&str> = entries.iter().map(|entry| entry.list()[0].text()).collect();
        connection.push_all(ids.len() + 3, ["XACK", SOURCE, GROUP].iter().chain(&ids));
        connection.push_all(ids.len() + 2, ["XDEL", SOURCE].iter().chain(&ids));
        for entry in entries {
            connection.push(&["XADD", TARGET, "*", "e", entry.list()[1].list()[1].text()]);
        }
        push_read(&mut connection);
        connection.flush()?;
        for _ in 0..ids.len() + 2 {
            connection.reply()?;
        }
        handed_on += ids.len();
    }
}

fn push_read(connection: &mut Connection) {
    let count = BATCH.to_string();
    connection.push(&["XREADGROUP", "GROUP", GROUP, "one", "COUNT", &count, "STREAMS", SOURCE, ">"]);
}

/// So many events are sent before it counts: the first ones find nothing warm.
pub(super) const WARMING: usize = 20;
/// The pause between two events of an idle system.
const PAUSE: Duration = Duration::from_millis(3);

/// The times from XADD to the reply of a client that does nothing but wait for it with XREADGROUP, sorted.
pub(super) fn latencies(server: &Server, events: usize, bytes: usize) -> anyhow::Result<Vec<Duration>> {
    server.flush()?;
    let (mut connection, mut reading) = (server.connection()?, server.connection()?);
    connection.ask(&["XGROUP", "CREATE", SOURCE, GROUP, "0", "MKSTREAM"])?;
    let (sender, started) = mpsc::channel();
    let bodies = vec![vec![b'x'; bytes]; events + WARMING];
    thread::scope(|scope| {
        let reads = scope.spawn(move || {
            for _ in 0..events + WARMING {
                let block = ["BLOCK", "10000", "STREAMS", SOURCE, ">"];
                let reply = reading.ask(&[&["XREADGROUP", "GROUP", GROUP, "one"][..], &block].concat())?;
                sender.send(Instant::now())?;
                let id = reply.list()[0].list()[1].list()[0].list()[0].text().to_owned();
                reading.ask(&["XACK", SOURCE, GROUP, &id])?;
                reading.ask(&["XDEL", SOURCE, &id])?;
            }
            anyhow::Ok(())
        });
        let waits = send(&mut connection, SOURCE, bodies, &started);
        reads.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        waits
    })
}

/// Adds one event after the other, each when the one before has `started`; the times until then, sorted.
pub(super) fn send(
    connection: &mut Connection,
    key: &str,
    bodies: Vec<Vec<u8>>,
    started: &mpsc::Receiver<Instant>,
) -> anyhow::Result<Vec<Duration>> {
    let mut waits = Vec::with_capacity(bodies.len());
    for (number, body) in bodies.into_iter().enumerate() {
        thread::sleep(PAUSE);
        let sent = Instant::now();
        connection.push(&[b"XADD".as_slice(), key.as_bytes(), b"*", b"e", &body]);
        connection.flush()?;
        connection.reply()?;
        let started = started.recv()?;
        if number >= WARMING {
            waits.push(started.saturating_duration_since(sent));
        }
    }
    waits.sort();
    Ok(waits)
}

/// Adds entries to a stream, pipelined.
pub(super) fn fill(
    connection: &mut Connection,
    key: &str,
    events: usize,
    body: impl Fn(usize) -> Vec<u8>,
) -> anyhow::Result<()> {
    const AT_ONCE: usize = 128;
    for begin in (0..events).step_by(AT_ONCE) {
        let end = events.min(begin + AT_ONCE);
        for number in begin..end {
            connection.push(&[b"XADD".as_slice(), key.as_bytes(), b"*", b"e", &body(number)]);
        }
        connection.flush()?;
        for _ in begin..end {
            connection.reply()?;
        }
    }
    Ok(())
}
