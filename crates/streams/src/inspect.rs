//! What stands on the streams, for people, metrics and scaling.

use std::{collections::BTreeMap, time::Duration};

use riacho_domain::{Lane, StageName};

use crate::{
    Error, Streams,
    client::{Conn, Value, list},
    entry::id_millis,
    liveness,
};

/// A stage's figures over all lanes of the partitions asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageFigures {
    /// Entries that stand on the streams: waiting, running or retrying.
    pub backlog: u64,
    /// Entries that were never delivered; none where the server does not know.
    pub lag: Option<u64>,
    /// Entries that were delivered and not yet settled, those that wait for a retry included.
    pub pending: u64,
    /// Entries that wait for a retry.
    pub retrying: u64,
    /// Entries that were ever delivered and settled, since the streams began; none where the server does not know. What
    /// it grows by is the stage's rate.
    pub settled: Option<u64>,
    /// Age of the oldest entry.
    pub oldest_age: Duration,
    /// Consumers whose last beat is a few seconds old at most.
    pub consumers_alive: u64,
    /// The other consumers.
    pub consumers_dead: u64,
    /// XLEN less lag and pending. Anything but 0 is a fault, or a delivery while it was counted.
    pub conservation_error: i64,
    /// Bytes of envelopes on the streams.
    pub bytes: u64,
}

/// What stands in one lane of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneFigures {
    /// Entries: waiting, running or retrying.
    pub entries: u64,
    /// Those of them that wait for a retry.
    pub retrying: u64,
    /// Whether a consumer whose last beat is a few seconds old at most reads the lane.
    pub is_read: bool,
}

impl Streams {
    /// The figures of a stage.
    pub async fn figures(&self, stage: StageName, partitions: &[u16]) -> Result<StageFigures, Error> {
        let conn = self.conn();
        let now_ms = server_millis(&conn, None).await?;
        let mut total = StageFigures { lag: Some(0), settled: Some(0), ..StageFigures::default() };
        let mut consumers = std::collections::BTreeSet::new();
        for partition in partitions {
            for lane in Lane::ALL {
                self.add_stream(&conn, *partition, stage, lane, now_ms, &mut total, &mut consumers).await?;
            }
        }
        for consumer in consumers {
            match liveness::read_beat(self, &consumer).await?.seems_alive() {
                true => total.consumers_alive += 1,
                false => total.consumers_dead += 1,
            }
        }
        Ok(total)
    }

    /// The figures of one lane of a stage in one partition.
    pub async fn lane_figures(
        &self,
        partition: u16,
        stage: StageName,
        lane: Lane,
    ) -> Result<LaneFigures, Error> {
        let (conn, key) = (self.conn(), self.keys().work(partition, stage, lane));
        let entries = conn.call("XLEN", Some(&key), vec![key.as_str().into()]).await?.as_u64().unwrap_or(0);
        let pending = pending_by_consumer(&conn, &key, stage).await?;
        let waiting = pending.iter().filter(|(consumer, _)| consumer.starts_with("retry:"));
        let retrying = waiting.map(|(_, holds)| holds).sum();
        let mut is_read = false;
        for consumer in consumer_names(&conn, &key, stage).await? {
            is_read |= liveness::read_beat(self, &consumer).await?.seems_alive();
            if is_read {
                break;
            }
        }
        Ok(LaneFigures { entries, retrying, is_read })
    }

    #[allow(clippy::too_many_arguments)] // one stream's part of a sum, called in one place
    async fn add_stream(
        &self,
        conn: &Conn,
        partition: u16,
        stage: StageName,
        lane: Lane,
        now_ms: u64,
        total: &mut StageFigures,
        consumers: &mut std::collections::BTreeSet<String>,
    ) -> Result<(), Error> {
        let key = self.keys().work(partition, stage, lane);
        let length = conn.call("XLEN", Some(&key), vec![key.as_str().into()]).await?.as_u64().unwrap_or(0);
        let group = group_figures(conn, &key, stage).await?;
        total.backlog += length;
        total.bytes += self.stream_bytes(conn, partition, &key).await?;
        if length > 0 {
            let args = vec![key.as_str().into(), "-".into(), "+".into(), "COUNT".into(), 1.into()];
            let first = crate::entry::pairs(conn.call("XRANGE", Some(&key), args).await?)?;
            let added = first.first().map_or(now_ms, |(id, ..)| id_millis(id));
            total.oldest_age = total.oldest_age.max(Duration::from_millis(now_ms.saturating_sub(added)));
        }
        let Some(Group { lag, pending, read }) = group else {
            // Nobody made the group yet: everything is undelivered.
            total.lag = total.lag.map(|lag| lag + length);
            return Ok(());
        };
        total.pending += pending;
        total.lag = total.lag.zip(lag).map(|(sum, lag)| sum + lag);
        let settled = match read {
            Some(read) => Some(read.saturating_sub(pending)),
            // The server loses count where entries were deleted beside those that it read. The stream itself has one.
            None => added(conn, &key).await?.map(|added| added.saturating_sub(length)),
        };
        total.settled = total.settled.zip(settled).map(|(sum, settled)| sum + settled);
        let accounted = lag.unwrap_or(length.saturating_sub(pending)) + pending;
        total.conservation_error += signed(length) - signed(accounted);
        for (consumer, holds) in pending_by_consumer(conn, &key, stage).await? {
            if consumer.starts_with("retry:") {
                total.retrying += holds;
            }
        }
        consumers.extend(consumer_names(conn, &key, stage).await?);
        Ok(())
    }

    async fn stream_bytes(&self, conn: &Conn, partition: u16, key: &str) -> Result<u64, Error> {
        let sizes = self.keys().sizes(partition);
        let reply = conn.call("HGET", Some(&sizes), vec![sizes.as_str().into(), key.into()]).await?;
        Ok(reply.as_u64().unwrap_or(0))
    }

    /// How many dead letters wait to be moved.
    pub async fn dead_letter_count(&self, partition: u16) -> Result<u64, Error> {
        let key = self.keys().dead(partition);
        let reply = self.conn().call("XLEN", Some(&key), vec![key.as_str().into()]).await?;
        Ok(reply.as_u64().unwrap_or(0))
    }
}

/// What stands in one lane of a stage in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneBacklog {
    /// The partition.
    pub partition: u16,
    /// The lane.
    pub lane: Lane,
    /// Entries: waiting, running or retrying.
    pub backlog: u64,
    /// Entries that were never delivered; none where the server does not know.
    pub lag: Option<u64>,
    /// Entries that were delivered and not yet settled, those that wait for a retry included.
    pub pending: u64,
    /// Entries that wait for a retry.
    pub retrying: u64,
    /// Age of the oldest entry.
    pub oldest_age: Duration,
    /// Bytes of envelopes.
    pub bytes: u64,
}

/// What a consumer of a group is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConsumerState {
    /// A process whose last beat is a few seconds old at most.
    Alive,
    /// A process that is gone; what it held is claimed by others.
    Dead,
    /// No process: it holds what waits for a retry.
    Retry,
}

impl ConsumerState {
    /// The name, as it stands in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ConsumerState::Alive => "alive",
            ConsumerState::Dead => "dead",
            ConsumerState::Retry => "retry",
        }
    }
}

/// A consumer of a stage, over all lanes of the partitions asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFigures {
    /// Its name: host, process and a random part; or the class of the delay.
    pub name: String,
    /// What it is.
    pub state: ConsumerState,
    /// Entries that it holds.
    pub pending: u64,
    /// How long ago it last asked for anything.
    pub idle: Duration,
}

impl Streams {
    /// What stands in each lane of a stage, by partition.
    pub async fn lane_backlogs(
        &self,
        stage: StageName,
        partitions: &[u16],
    ) -> Result<Vec<LaneBacklog>, Error> {
        let conn = self.conn();
        let now_ms = server_millis(&conn, None).await?;
        let mut backlogs = Vec::new();
        for partition in partitions.iter().copied() {
            for lane in Lane::ALL {
                let mut one = StageFigures { lag: Some(0), ..StageFigures::default() };
                let consumers = &mut std::collections::BTreeSet::new();
                self.add_stream(&conn, partition, stage, lane, now_ms, &mut one, consumers).await?;
                let StageFigures { backlog, lag, pending, retrying, oldest_age, bytes, .. } = one;
                backlogs.push(LaneBacklog {
                    partition,
                    lane,
                    backlog,
                    lag,
                    pending,
                    retrying,
                    oldest_age,
                    bytes,
                });
            }
        }
        Ok(backlogs)
    }

    /// The consumers of a stage, those that live first.
    pub async fn consumer_figures(
        &self,
        stage: StageName,
        partitions: &[u16],
    ) -> Result<Vec<ConsumerFigures>, Error> {
        let conn = self.conn();
        let mut known: BTreeMap<String, (u64, Duration)> = BTreeMap::new();
        for partition in partitions {
            for lane in Lane::ALL {
                let key = self.keys().work(*partition, stage, lane);
                for (name, pending, idle) in consumers_of(&conn, &key, stage.as_str()).await? {
                    let one = known.entry(name).or_insert((0, idle));
                    *one = (one.0 + pending, one.1.min(idle));
                }
            }
        }
        let mut consumers = Vec::with_capacity(known.len());
        for (name, (pending, idle)) in known {
            let state = match name.starts_with("retry:") {
                true => ConsumerState::Retry,
                false if liveness::read_beat(self, &name).await?.seems_alive() => ConsumerState::Alive,
                false => ConsumerState::Dead,
            };
            consumers.push(ConsumerFigures { name, state, pending, idle });
        }
        consumers.sort_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
        Ok(consumers)
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The clock of the server that has a key, or of any.
pub(crate) async fn server_millis(conn: &Conn, key: Option<&str>) -> Result<u64, Error> {
    let parts = list(conn.call("TIME", key, vec![]).await?);
    let part = |at: usize| parts.get(at).and_then(Value::as_u64).ok_or(Error::Reply("time"));
    Ok(part(0)? * 1000 + part(1)? / 1000)
}

/// What the server says of a group.
struct Group {
    lag: Option<u64>,
    pending: u64,
    /// Entries that were ever delivered.
    read: Option<u64>,
}

/// The stage's group on a stream; none where there is no stream or no group.
async fn group_figures(conn: &Conn, key: &str, stage: StageName) -> Result<Option<Group>, Error> {
    let groups = match conn.call("XINFO", Some(key), vec!["GROUPS".into(), key.into()]).await {
        Err(Error::Refused(text)) if text.contains("no such key") => return Ok(None),
        reply => list(reply?),
    };
    for group in groups {
        let fields = list(group);
        let get = |name: &str| field(&fields, name);
        if get("name").and_then(Value::as_bytes) == Some(stage.as_str().as_bytes()) {
            return Ok(Some(Group {
                lag: get("lag").and_then(Value::as_u64),
                pending: get("pending").and_then(Value::as_u64).unwrap_or(0),
                read: get("entries-read").and_then(Value::as_u64),
            }));
        }
    }
    Ok(None)
}

/// Entries that were ever added to a stream. The answer has its first and last entry as well.
async fn added(conn: &Conn, key: &str) -> Result<Option<u64>, Error> {
    let reply = match conn.call("XINFO", Some(key), vec!["STREAM".into(), key.into()]).await {
        Err(Error::Refused(text)) if text.contains("no such key") => return Ok(None),
        reply => list(reply?),
    };
    Ok(field(&reply, "entries-added").and_then(Value::as_u64))
}

/// A value of a list of names and values.
fn field<'a>(fields: &'a [Value], name: &str) -> Option<&'a Value> {
    let mut pairs = fields.chunks_exact(2);
    pairs.find(|pair| pair[0].as_bytes() == Some(name.as_bytes())).map(|pair| &pair[1])
}

/// Who holds how many entries of a stream.
pub(crate) async fn pending_by_consumer(
    conn: &Conn,
    key: &str,
    stage: StageName,
) -> Result<Vec<(String, u64)>, Error> {
    let reply = match conn.call("XPENDING", Some(key), vec![key.into(), stage.as_str().into()]).await {
        Err(Error::NoGroup) => return Ok(vec![]),
        reply => list(reply?),
    };
    let Some(Value::Array(consumers)) = reply.into_iter().nth(3) else { return Ok(vec![]) };
    consumers
        .into_iter()
        .map(|pair| {
            let mut pair = list(pair).into_iter();
            let name = pair.next().and_then(Value::into_string).ok_or(Error::Reply("consumer"))?;
            let count = pair.next().and_then(|count| count.as_u64()).ok_or(Error::Reply("count"))?;
            Ok((name, count))
        })
        .collect()
}

/// The names of a group's consumers, without those of the delay classes.
pub(crate) async fn consumer_names(conn: &Conn, key: &str, stage: StageName) -> Result<Vec<String>, Error> {
    let names = idle_consumers(conn, key, stage.as_str(), Duration::ZERO).await?;
    Ok(names.into_iter().filter(|name| !name.starts_with("retry:")).collect())
}

/// The names of a group's consumers that did nothing for `idle`; none where there is no group.
pub(crate) async fn idle_consumers(
    conn: &Conn,
    key: &str,
    group: &str,
    idle: Duration,
) -> Result<Vec<String>, Error> {
    let consumers = consumers_of(conn, key, group).await?.into_iter();
    Ok(consumers.filter(|(.., inactive)| *inactive >= idle).map(|(name, ..)| name).collect())
}

/// A group's consumers: the name, how many entries it holds, and for how long it did nothing; none where there is no group.
async fn consumers_of(conn: &Conn, key: &str, group: &str) -> Result<Vec<(String, u64, Duration)>, Error> {
    let reply = match conn.call("XINFO", Some(key), vec!["CONSUMERS".into(), key.into(), group.into()]).await
    {
        Err(Error::NoGroup) => return Ok(vec![]),
        Err(Error::Refused(text)) if text.contains("no such key") => return Ok(vec![]),
        reply => list(reply?),
    };
    // name, its value, pending, its value, idle, its value
    let read = |consumer: Value| {
        let fields = list(consumer);
        let number = |at: usize| fields.get(at).and_then(Value::as_u64).unwrap_or(0);
        let (pending, idle) = (number(3), Duration::from_millis(number(5)));
        Some((fields.into_iter().nth(1).and_then(Value::into_string)?, pending, idle))
    };
    Ok(reply.into_iter().filter_map(read).collect())
}
