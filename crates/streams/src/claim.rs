//! Taking entries over: from delay classes when they are due, and from consumers that are dead.

use std::time::Duration;

use riacho_domain::{DelayClass, Lane, StageName};

use crate::{
    Error, HANDED_BACK, Observer, Streams,
    client::Value,
    entry::{self, Entry},
    inspect,
};

/// How often, and how many times, beats are watched before consumers are deleted.
const WATCH_EVERY: Duration = Duration::from_millis(900);
const WATCHES: u32 = 4;

/// How many entries are taken over at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Of all lanes together.
    pub total: usize,
    /// Of each lane, in the order of [`Lane::ALL`].
    pub lanes: [usize; 3],
}

impl From<usize> for Most {
    fn from(total: usize) -> Self {
        Self { total, lanes: [total; 3] }
    }
}

impl Streams {
    /// Takes entries whose retry is due, and those that were handed back.
    pub async fn take_due(
        &self,
        partition: u16,
        stage: StageName,
        consumer: &str,
        most: impl Into<Most>,
    ) -> Result<Vec<Entry>, Error> {
        let mut from = vec![(HANDED_BACK, 0)];
        let millis = |class: DelayClass| i64::try_from(class.delay().as_millis()).unwrap_or(i64::MAX);
        from.extend(DelayClass::ALL.map(|class| (class.consumer(), millis(class))));
        self.take(partition, stage, consumer, most.into(), &from).await
    }

    /// Takes entries of consumers that are dead. The caller has judged that, and its own beat is
    /// accepted.
    pub async fn take_from(
        &self,
        partition: u16,
        stage: StageName,
        consumer: &str,
        most: impl Into<Most>,
        dead: &[String],
    ) -> Result<Vec<Entry>, Error> {
        let from: Vec<_> = dead.iter().map(|name| (name.as_str(), 0)).collect();
        self.take(partition, stage, consumer, most.into(), &from).await
    }

    async fn take(
        &self,
        partition: u16,
        stage: StageName,
        consumer: &str,
        most: Most,
        from: &[(&str, i64)],
    ) -> Result<Vec<Entry>, Error> {
        let count = |most: usize| Value::from(i64::try_from(most).unwrap_or(i64::MAX));
        let mut args = vec![stage.as_str().into(), consumer.into(), count(most.total)];
        args.extend(most.lanes.map(|lane| count(lane.min(most.total))));
        for (name, idle_ms) in from {
            args.extend([Value::from(*name), (*idle_ms).into()]);
        }
        let keys = self.keys().lanes(partition, stage);
        let reply = self.scripts().take.run(&self.conn(), &keys, args).await?;
        entry::taken(reply, &Lane::ALL)
    }

    /// The consumers of a stage in a partition, without those of the delay classes.
    pub async fn consumers(&self, partition: u16, stage: StageName) -> Result<Vec<String>, Error> {
        let conn = self.conn();
        let mut names = std::collections::BTreeSet::new();
        for key in self.keys().lanes(partition, stage) {
            names.extend(inspect::consumer_names(&conn, &key, stage).await?);
        }
        Ok(names.into_iter().collect())
    }

    /// Finds the consumers of a stage that are gone, and deletes those that hold nothing; says how
    /// many. Takes about three seconds, because it watches their beats.
    pub async fn delete_gone_consumers(&self, partition: u16, stage: StageName) -> Result<u64, Error> {
        let names = self.consumers(partition, stage).await?;
        let mut observer = Observer::new(WATCH_EVERY * (WATCHES - 1), Duration::ZERO);
        for watch in 0..WATCHES {
            if watch > 0 {
                tokio::time::sleep(WATCH_EVERY).await;
            }
            observer.look(self, &names).await?;
        }
        self.delete_consumers(partition, stage, &observer.dead()).await
    }

    /// Deletes consumers that are gone and hold nothing; says how many. `gone` is the caller's
    /// judgement; that they hold nothing is checked in the same step.
    pub async fn delete_consumers(
        &self,
        partition: u16,
        stage: StageName,
        gone: &[String],
    ) -> Result<u64, Error> {
        if gone.is_empty() {
            return Ok(0);
        }
        let conn = self.conn();
        let mut deleted = 0;
        for key in self.keys().lanes(partition, stage) {
            let mut args = vec![stage.as_str().into()];
            args.extend(gone.iter().map(|name| Value::from(name.as_str())));
            match self.scripts().delete_consumers.run(&conn, &[key], args).await {
                Err(Error::NoGroup) => {}
                reply => deleted += reply?.as_u64().unwrap_or(0),
            }
        }
        Ok(deleted)
    }
}
