//! What a client reaches that does nothing but the four commands of a hop, pipelined: the limit to compare with.

use std::time::Instant;

use riacho_local::resp::Connection;

use super::server::Server;

/// So many entries are read and handed on at once.
const BATCH: usize = 100;
const SOURCE: &str = "raw:source";
const TARGET: &str = "raw:target";
const GROUP: &str = "raw";

/// Events a second of XREADGROUP, XACK, XDEL and XADD on one connection.
pub(super) fn rate(server: &Server, events: usize, bytes: usize) -> anyhow::Result<f64> {
    let mut connection = server.connection()?;
    let body = vec![b'x'; bytes];
    fill(&mut connection, SOURCE, events, |_| body.clone())?;
    connection.ask(&["XGROUP", "CREATE", SOURCE, GROUP, "0"])?;
    let start = Instant::now();
    push_read(&mut connection);
    connection.flush()?;
    let mut handed_on = 0;
    loop {
        let reply = connection.reply()?;
        let Some(stream) = reply.list().first() else { break };
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
    anyhow::ensure!(handed_on == events, "{handed_on} of {events} events were handed on");
    Ok(events as f64 / start.elapsed().as_secs_f64())
}

fn push_read(connection: &mut Connection) {
    let count = BATCH.to_string();
    connection.push(&["XREADGROUP", "GROUP", GROUP, "one", "COUNT", &count, "STREAMS", SOURCE, ">"]);
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
