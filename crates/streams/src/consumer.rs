//! Reading: blocking readers of a partition of a stage, each with a connection of its own.

use std::time::Duration;

use futures::future::join_all;
use riacho_domain::{Lane, StageName};

use crate::{
    Error, Streams,
    client::{Conn, Reconnects, Value, list},
    entry::{self, Entry},
};

/// How many own pending entries one comparison looks at on a lane.
const OWN_PENDING_MAX: i64 = 20_000;

/// Reads a stage's entries in one partition, under one consumer's name.
///
/// No future of a read is ever dropped: the server would deliver all the same, to nobody.
pub struct Reader {
    streams: Streams,
    conn: Conn,
    reconnects: Reconnects,
    partition: u16,
    stage: StageName,
    consumer: String,
    keys: [String; 3],
}

impl Streams {
    /// Opens a reader, and makes the groups where they are missing.
    pub async fn reader(&self, partition: u16, stage: StageName, consumer: &str) -> Result<Reader, Error> {
        let conn = self.dedicated().await?;
        let reader = Reader {
            streams: self.clone(),
            reconnects: conn.watch_reconnects(),
            conn,
            partition,
            stage,
            consumer: consumer.to_owned(),
            keys: self.keys().lanes(partition, stage),
        };
        // A client that is only dropped goes on connecting by itself.
        match reader.make_groups().await {
            Ok(()) => Ok(reader),
            Err(error) => {
                reader.close().await;
                Err(error)
            }
        }
    }
}

impl Reader {
    /// Makes the groups and streams where they are missing, at `0`, so that what was added before
    /// is read too.
    pub async fn make_groups(&self) -> Result<(), Error> {
        for key in &self.keys {
            let group = self.stage.as_str();
            let args =
                vec!["CREATE".into(), key.as_str().into(), group.into(), "0".into(), "MKSTREAM".into()];
            match self.conn.call("XGROUP", Some(key), args).await {
                Err(Error::Refused(text)) if text.starts_with("BUSYGROUP") => {}
                result => {
                    result?;
                    // For the census. At the memory limit it is refused, and then the age of what was lost tells.
                    let made = self.streams.keys().groups_made(self.partition);
                    let _ = self.conn.call("INCR", Some(&made), vec![made.as_str().into()]).await;
                }
            }
        }
        Ok(())
    }

    /// Makes this consumer known to the groups without reading: those who look see that somebody is there.
    pub async fn announce(&self) -> Result<(), Error> {
        for key in &self.keys {
            let (group, consumer) = (self.stage.as_str(), self.consumer.as_str());
            let args = vec!["CREATECONSUMER".into(), key.as_str().into(), group.into(), consumer.into()];
            self.conn.call("XGROUP", Some(key), args).await?;
        }
        Ok(())
    }

    /// Waits up to `block` for entries of any lane; at most `count` of each.
    pub async fn read_any(&self, count: usize, block: Duration) -> Result<Vec<Entry>, Error> {
        self.read_any_of([true; 3], count, block).await
    }

    /// Waits up to `block` for entries of some lanes, in the order of [`Lane::ALL`]; at most `count` of each.
    pub async fn read_any_of(
        &self,
        lanes: [bool; 3],
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, Error> {
        // A longer block would look like a connection that does not answer.
        let block = block.min(self.streams.config().command_timeout());
        let millis = i64::try_from(block.as_millis().max(1)).unwrap_or(i64::MAX);
        let mut args = self.read_args(count);
        args.extend(["BLOCK".into(), millis.into(), "STREAMS".into()]);
        let keys = self.keys.iter().zip(lanes).filter(|(_, wanted)| *wanted).map(|(key, _)| key);
        args.extend(keys.clone().map(|key| Value::from(key.as_str())));
        args.extend(keys.map(|_| Value::from(">")));
        let reply = self.conn.call_blocking("XREADGROUP", &self.keys[0], args, block).await?;
        self.entries(reply)
    }

    /// Takes what is there, without waiting: so many of each lane.
    pub async fn read_lanes(&self, counts: [usize; 3]) -> Result<Vec<Entry>, Error> {
        let wanted = self.keys.iter().zip(counts).filter(|(_, count)| *count > 0);
        let reads = wanted.map(|(key, count)| {
            let mut args = self.read_args(count);
            args.extend(["STREAMS".into(), key.as_str().into(), ">".into()]);
            self.conn.call("XREADGROUP", Some(key), args)
        });
        let mut entries = Vec::new();
        // All replies are looked at before an error is: what one lane delivered is not lost
        // because another has no group.
        let mut failed = None;
        for reply in join_all(reads).await {
            match reply.and_then(|reply| self.entries(reply)) {
                Ok(read) => entries.extend(read),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if entries.is_empty() => Err(error),
            _ => Ok(entries),
        }
    }

    fn read_args(&self, count: usize) -> Vec<Value> {
        let count = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let (group, consumer) = (self.stage.as_str(), self.consumer.as_str());
        vec!["GROUP".into(), group.into(), consumer.into(), "COUNT".into(), count.into()]
    }

    fn entries(&self, reply: Value) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for stream in list(reply) {
            let mut parts = list(stream).into_iter();
            let key = parts.next().ok_or(Error::Reply("stream"))?;
            let index = self.keys.iter().position(|known| key.as_bytes() == Some(known.as_bytes()));
            let lane = Lane::ALL[index.ok_or(Error::Reply("stream name"))?];
            let pairs = entry::pairs(parts.next().ok_or(Error::Reply("entries"))?)?;
            // A first delivery: XREADGROUP with `>` never gives an entry twice.
            entries.extend(pairs.into_iter().map(|(id, body, is_event)| Entry {
                lane,
                id,
                deliveries: 1,
                body,
                is_event,
            }));
        }
        Ok(entries)
    }

    /// Whether the connection was made again since the last look. What was on the wire is lost.
    pub fn reconnected(&mut self) -> bool {
        self.reconnects.happened()
    }

    /// Entries that the server says this consumer holds.
    pub async fn own_pending(&self) -> Result<Vec<(Lane, String)>, Error> {
        let mut own = Vec::new();
        for (key, lane) in self.keys.iter().zip(Lane::ALL) {
            let (group, consumer) = (self.stage.as_str(), self.consumer.as_str());
            let args = vec![
                key.as_str().into(),
                group.into(),
                "-".into(),
                "+".into(),
                OWN_PENDING_MAX.into(),
                consumer.into(),
            ];
            let reply = self.conn.call("XPENDING", Some(key), args).await?;
            let id = |row: Value| list(row).into_iter().next().and_then(Value::into_string);
            own.extend(list(reply).into_iter().filter_map(id).map(|id| (lane, id)));
        }
        Ok(own)
    }

    /// Fetches entries again that this consumer holds but never received. Their delivery count
    /// stays, since a lost delivery is no attempt.
    pub async fn recover(&self, lane: Lane, ids: &[String]) -> Result<Vec<Entry>, Error> {
        let mut args = vec![self.stage.as_str().into(), self.consumer.as_str().into()];
        args.extend(ids.iter().map(|id| Value::from(id.as_str())));
        let keys = std::slice::from_ref(&self.keys[lane.index()]);
        let reply = self.streams.scripts().recover.run(&self.conn, keys, args).await?;
        entry::taken(reply, &[lane])
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.conn.close().await;
    }
}
