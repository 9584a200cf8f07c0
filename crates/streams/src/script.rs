//! The Lua scripts, and how they are called: by hash, and in full where the server forgot them.

use crate::{
    Error,
    client::{Conn, Value},
};

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal),* $(,)?) => {
        /// Every script, with the hash that the server gave it.
        pub(crate) struct Scripts { $($(#[$doc])* pub(crate) $name: Script),* }

        impl Scripts {
            pub(crate) async fn load(conn: &Conn) -> Result<Scripts, Error> {
                Ok(Scripts { $($name: Script::load(conn, include_str!($file)).await?),* })
            }
        }
    };
}

scripts! {
    /// Acknowledges, hands off, emits and defers entries.
    handoff = "scripts/handoff.lua",
    /// Takes over entries of other consumers.
    take = "scripts/take.lua",
    /// Fetches own entries again whose delivery was lost.
    recover = "scripts/recover.lua",
    /// Puts a release onto its stream once.
    release = "scripts/release.lua",
    /// Removes entries and their bytes, whoever holds them.
    remove = "scripts/remove.lua",
    /// Deletes consumers that hold nothing.
    delete_consumers = "scripts/delete_consumers.lua",
    /// Acknowledges and deletes producers' events.
    ack_intake = "scripts/ack_intake.lua",
    /// Looks at a partition's server and at the consumers of a stage.
    look = "scripts/look.lua",
    /// Reads a sign of life.
    beat = "scripts/beat.lua",
    /// Looks whether a partition lost anything.
    road = "scripts/road.lua",
    /// Reads the beginnings of a stream's envelopes.
    heads = "scripts/heads.lua",
    /// Takes a token of a bucket.
    token = "scripts/token.lua",
    /// Pays for what was read of a lane.
    pace = "scripts/pace.lua",
    /// Gives turns at a provider's limits.
    limit = "scripts/limit.lua",
    /// Counts an answer that is to be kept.
    keep = "scripts/keep.lua",
}

/// A script that the server may or may not have.
pub(crate) struct Script {
    lua: &'static str,
    hash: String,
}

impl Script {
    async fn load(conn: &Conn, lua: &'static str) -> Result<Script, Error> {
        let reply = conn.call("SCRIPT", None, vec!["LOAD".into(), lua.into()]).await?;
        let hash = reply.as_string().ok_or(Error::Reply("script hash"))?;
        Ok(Script { lua, hash })
    }

    /// Runs the script. All `keys` hash to one slot.
    pub(crate) async fn run(&self, conn: &Conn, keys: &[String], args: Vec<Value>) -> Result<Value, Error> {
        let slot = keys.first().map(String::as_str);
        let call = |script: Value| {
            let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
            let mut all = Vec::with_capacity(2 + keys.len() + args.len());
            all.push(script);
            all.push(count.into());
            all.extend(keys.iter().map(|key| Value::from(key.as_str())));
            all.extend(args.iter().cloned());
            all
        };
        match conn.call("EVALSHA", slot, call(self.hash.as_str().into())).await {
            Err(Error::Refused(text)) if text.starts_with("NOSCRIPT") => {
                conn.call("EVAL", slot, call(self.lua.into())).await
            }
            result => result,
        }
    }
}
