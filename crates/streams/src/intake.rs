//! Producers' events: one stream for each tenant, one group, and a stream of answers.
//!
//! The gateway reads them for many tenants at once, and answers each after its row is committed.

use std::time::Duration;

use bytes::Bytes;
use riacho_domain::TenantId;

use crate::{
    Error, Streams,
    client::{Conn, Value, list},
    entry, inspect,
};

/// The group that reads producers' events.
const GROUP: &str = "gateway";
/// About how many answers a tenant's results stream keeps.
const RESULTS_KEPT: i64 = 10_000;

/// A producer's event, undecoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeEntry {
    /// Whose stream it came from.
    pub tenant: TenantId,
    /// Its id on that stream.
    pub entry_id: String,
    /// The encoded envelope. Where the entry has no field `e`: all its fields.
    pub body: Bytes,
    /// Whether it had the field `e`.
    pub is_event: bool,
}

/// The answer to a producer's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntakeAnswer {
    /// The event's entry id.
    pub entry_id: String,
    /// An encoded Envelope with an IntakeResult.
    pub envelope: Bytes,
}

/// Reads producers' events on a connection of its own.
pub struct IntakeReader {
    streams: Streams,
    conn: Conn,
    consumer: String,
}

impl Streams {
    /// Opens a reader of producers' events.
    pub async fn intake_reader(&self, consumer: &str) -> Result<IntakeReader, Error> {
        Ok(IntakeReader {
            streams: self.clone(),
            conn: self.dedicated().await?,
            consumer: consumer.to_owned(),
        })
    }

    /// Answers events and deletes them from a tenant's intake; says how many were still there.
    /// Call it after what they ask for is committed.
    pub async fn answer_intake(&self, tenant: &TenantId, answers: &[IntakeAnswer]) -> Result<u64, Error> {
        if answers.is_empty() {
            return Ok(0);
        }
        let keys = [self.keys().intake(tenant), self.keys().intake_results(tenant)];
        let mut args = vec![GROUP.into(), RESULTS_KEPT.into()];
        for answer in answers {
            args.extend([Value::from(answer.entry_id.as_str()), Value::Bytes(answer.envelope.clone())]);
        }
        let reply = self.scripts().ack_intake.run(&self.conn(), &keys, args).await?;
        reply.as_u64().ok_or(Error::Reply("count"))
    }

    /// Events of a tenant that consumers other than `consumer` hold for at least `idle` without an
    /// answer: taken over. Answering twice is harmless, so idle time is proof enough here.
    pub async fn claim_intake(
        &self,
        tenant: &TenantId,
        consumer: &str,
        idle: Duration,
        count: usize,
    ) -> Result<Vec<IntakeEntry>, Error> {
        let key = self.keys().intake(tenant);
        let idle = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        let count = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let args = vec![
            key.as_str().into(),
            GROUP.into(),
            consumer.into(),
            idle.into(),
            "0-0".into(),
            "COUNT".into(),
            count.into(),
        ];
        let reply = match self.conn().call("XAUTOCLAIM", Some(&key), args).await {
            Err(Error::NoGroup) => return Ok(vec![]),
            reply => reply?,
        };
        let entries = list(reply).into_iter().nth(1).ok_or(Error::Reply("claimed events"))?;
        events(tenant, entries)
    }

    /// Deletes consumers of a tenant's intake that did nothing for `idle` and hold nothing; says how
    /// many. One that only waited comes back with its next event, so idle time is proof enough here.
    pub async fn delete_idle_intake_consumers(
        &self,
        tenant: &TenantId,
        idle: Duration,
    ) -> Result<u64, Error> {
        let key = self.keys().intake(tenant);
        let names = inspect::idle_consumers(&self.conn(), &key, GROUP, idle).await?;
        if names.is_empty() {
            return Ok(0);
        }
        let mut args = vec![GROUP.into()];
        args.extend(names.iter().map(|name| Value::from(name.as_str())));
        match self.scripts().delete_consumers.run(&self.conn(), &[key], args).await {
            Err(Error::NoGroup) => Ok(0),
            reply => reply?.as_u64().ok_or(Error::Reply("count")),
        }
    }
}

impl IntakeReader {
    /// Waits up to `block` for events of any of these tenants; at most `count` of each. Makes the
    /// groups that are missing.
    pub async fn read(
        &self,
        tenants: &[TenantId],
        count: usize,
        block: Duration,
    ) -> Result<Vec<IntakeEntry>, Error> {
        if tenants.is_empty() {
            tokio::time::sleep(block).await;
            return Ok(vec![]);
        }
        let keys: Vec<String> = tenants.iter().map(|tenant| self.streams.keys().intake(tenant)).collect();
        match self.read_once(tenants, &keys, count, block).await {
            Err(Error::NoGroup) => {
                self.make_groups(&keys).await?;
                self.read_once(tenants, &keys, count, block).await
            }
            result => result,
        }
    }

    async fn make_groups(&self, keys: &[String]) -> Result<(), Error> {
        for key in keys {
            let args =
                vec!["CREATE".into(), key.as_str().into(), GROUP.into(), "0".into(), "MKSTREAM".into()];
            match self.conn.call("XGROUP", Some(key), args).await {
                Err(Error::Refused(text)) if text.starts_with("BUSYGROUP") => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    async fn read_once(
        &self,
        tenants: &[TenantId],
        keys: &[String],
        count: usize,
        block: Duration,
    ) -> Result<Vec<IntakeEntry>, Error> {
        let count = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let millis = i64::try_from(block.as_millis().max(1)).unwrap_or(i64::MAX);
        let mut args: Vec<Value> = vec!["GROUP".into(), GROUP.into(), self.consumer.as_str().into()];
        args.extend(["COUNT".into(), count.into(), "BLOCK".into(), millis.into(), "STREAMS".into()]);
        args.extend(keys.iter().map(|key| Value::from(key.as_str())));
        args.extend(keys.iter().map(|_| Value::from(">")));
        let reply = self.conn.call_blocking("XREADGROUP", &keys[0], args, block).await?;
        let mut all = Vec::new();
        for stream in list(reply) {
            let mut parts = list(stream).into_iter();
            let key = parts.next().ok_or(Error::Reply("stream"))?;
            let index = keys.iter().position(|known| key.as_bytes() == Some(known.as_bytes()));
            let tenant = &tenants[index.ok_or(Error::Reply("stream name"))?];
            all.extend(events(tenant, parts.next().ok_or(Error::Reply("events"))?)?);
        }
        Ok(all)
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.conn.close().await;
    }
}

fn events(tenant: &TenantId, reply: Value) -> Result<Vec<IntakeEntry>, Error> {
    let event = |(entry_id, body, is_event)| IntakeEntry { tenant: tenant.clone(), entry_id, body, is_event };
    Ok(entry::pairs(reply)?.into_iter().map(event).collect())
}
