//! The servers themselves: who they are, how full they are, and whether they answer.
//!
//! There may be several: what is asked of a partition is asked of the server that holds it, and the rest of every one
//! that takes writes.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use riacho_domain::StageName;

use crate::{Error, Streams, client::list};

/// What servers say about their memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Bytes in use.
    pub used: u64,
    /// The limit; 0 for none.
    pub max: u64,
    /// What happens at the limit.
    pub policy: String,
}

impl Memory {
    /// Whether at least `percent` of the limit are in use.
    #[must_use]
    pub fn is_above(&self, percent: u64) -> bool {
        self.max > 0 && self.used.saturating_mul(100) >= self.max.saturating_mul(percent)
    }
}

/// Tells whether the server, or its data, may be another one than before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// New with each start of the server.
    pub run_id: String,
    /// New with each failover.
    pub replication_id: String,
}

/// The server that holds a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Home {
    /// Who it is.
    pub identity: ServerIdentity,
    /// Its memory.
    pub memory: Memory,
}

/// A stage of a partition, as its consumers watch it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The server that holds it.
    pub home: Home,
    /// Entries that somebody has, or that wait for a retry.
    pub pending: u64,
    /// The consumers, without those of the delay classes.
    pub consumers: Vec<String>,
}

impl Streams {
    /// Asks whether every server answers, and how long that takes.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        let conn = self.conn();
        let nodes = conn.nodes();
        try_join_all(nodes.iter().map(|node| conn.call_on(node.as_ref(), "PING", vec![]))).await?;
        Ok(start.elapsed())
    }

    /// The memory of all servers together. The policy is that of one which evicts, if there is one.
    pub async fn memory(&self) -> Result<Memory, Error> {
        let conn = self.conn();
        let nodes = conn.nodes();
        let infos = nodes.iter().map(|node| conn.call_on(node.as_ref(), "INFO", vec!["memory".into()]));
        let mut all = Memory { policy: NO_EVICTION.to_owned(), ..Memory::default() };
        for info in try_join_all(infos).await? {
            let info = info.into_string().ok_or(Error::Reply("info"))?;
            let field = |name| field(&info, name).unwrap_or_default();
            all.used += number(field("used_memory"));
            all.max += number(field("maxmemory"));
            let policy = field("maxmemory_policy");
            if !policy.is_empty() && policy != NO_EVICTION {
                all.policy = policy.to_owned();
            }
        }
        Ok(all)
    }

    /// The server that holds a partition.
    pub async fn home_of(&self, partition: u16) -> Result<Home, Error> {
        Ok(self.look(partition, StageName::Extract).await?.home)
    }

    /// Looks at a stage of a partition: its server, its consumers, and whether anything is pending.
    pub async fn look(&self, partition: u16, stage: StageName) -> Result<Look, Error> {
        let keys = self.keys().lanes(partition, stage);
        let reply = self.scripts().look.run(&self.conn(), &keys, vec![stage.as_str().into()]).await?;
        let mut texts = list(reply).into_iter().map(|text| text.into_string().ok_or(Error::Reply("look")));
        let mut next = || texts.next().ok_or(Error::Reply("look")).flatten();
        let identity = ServerIdentity { run_id: next()?, replication_id: next()? };
        let memory = Memory { used: number(&next()?), max: number(&next()?), policy: next()? };
        let pending = number(&next()?);
        let consumers = texts.collect::<Result<_, _>>()?;
        Ok(Look { home: Home { identity, memory }, pending, consumers })
    }
}

/// The policy of a server that loses nothing.
pub(crate) const NO_EVICTION: &str = "noeviction";

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}
