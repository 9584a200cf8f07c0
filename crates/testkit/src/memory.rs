//! What a Redis needs for what it holds.

use anyhow::{Context, Result, bail};
use riacho_local::testing::{Reply, TestRedis, try_command};

/// The bytes that a server needs for data: without its clients, what waits to be written to disk, its log of slow
/// commands, and its histogram of each command that was ever sent. The last two are emptied by this.
///
/// # Errors
/// When the server is away.
pub fn data_bytes(redis: &TestRedis) -> Result<u64> {
    let ask = |args: &[&str]| match try_command(&redis.socket(), args)? {
        Reply::Error(text) => bail!("{args:?}: {text}"),
        reply => Ok(reply),
    };
    ask(&["SLOWLOG", "RESET"])?;
    ask(&["CONFIG", "SET", "latency-tracking", "no"])?;
    ask(&["CONFIG", "RESETSTAT"])?;
    let info = ask(&["INFO", "memory"])?;
    let field = |name: &str| -> Result<u64> {
        let found = info.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found
            .with_context(|| format!("no {name}"))?
            .trim()
            .parse()
            .with_context(|| format!("{name} is no number"))
    };
    // The server's own sum over its clients is some moments old for each of them, which is a tenth of an empty server.
    let clients = ask(&["CLIENT", "LIST"])?;
    let besides = clients_bytes(clients.text()) + field("mem_aof_buffer")?;
    Ok(field("used_memory")?.saturating_sub(besides))
}

fn clients_bytes(list: &str) -> u64 {
    let bytes =
        |line: &str| line.split(' ').find_map(|field| field.strip_prefix("tot-mem=")?.parse::<u64>().ok());
    list.lines().filter_map(bytes).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_added_and_deleted_is_seen() {
        let redis = riacho_local::testing::redis();
        let before = data_bytes(&redis).unwrap();
        redis.command(&["SET", "large", &"x".repeat(1 << 20)]);
        let with = data_bytes(&redis).unwrap();
        assert!(with > before + (1 << 20), "{before}, {with}");
        redis.command(&["DEL", "large"]);
        let after = data_bytes(&redis).unwrap();
        assert!(after < before + before / 20, "{before}, {after}");
    }
}
