//! The streams as the server has them, read behind the crate's back in one step.

use riacho_streams::Streams;

pub(crate) use crate::support::Reply;
use crate::support::Server;

/// What stands under a key.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    /// Ids and bodies.
    pub(crate) entries: Vec<(String, String)>,
    pub(crate) group: Option<Group>,
    /// The bytes that the partition's hash of sizes says.
    pub(crate) size: usize,
}

/// A stream's group.
#[derive(Debug)]
pub(crate) struct Group {
    /// None where the server does not know.
    pub(crate) lag: Option<usize>,
    pub(crate) pending: usize,
    pub(crate) held: Vec<Held>,
}

/// An entry of a pending entries list.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) consumer: String,
    pub(crate) idle_ms: u64,
    pub(crate) deliveries: u32,
}

const LOOK: &str = r"
local all = {}
for at = 2, #KEYS do
  local key = KEYS[at]
  local one = { redis.call('TYPE', key).ok, redis.call('HGET', KEYS[1], key) or '0', {}, {}, '', '0' }
  if one[1] == 'stream' then
    for n, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do one[3][n] = { entry[1], entry[2][2] } end
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      local group = {}
      for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
      one[5], one[6] = tostring(group['lag'] or 'unknown'), tostring(group['pending'])
      one[4] = redis.call('XPENDING', key, group['name'], '-', '+', 10000)
    end
  end
  all[#all + 1] = one
end
return all";

/// Lets time pass for what waits in delay classes.
const PASS: &str = r"
for at = 1, #KEYS do
  if redis.call('TYPE', KEYS[at]).ok == 'stream' then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[at])) do
      for _, held in ipairs(redis.call('XPENDING', KEYS[at], info[2], '-', '+', 10000)) do
        if string.sub(held[2], 1, 6) == 'retry:' then
          redis.call('XCLAIM', KEYS[at], info[2], held[2], 0, held[1],
            'IDLE', held[3] + ARGV[1], 'RETRYCOUNT', held[4], 'JUSTID')
        end
      end
    end
  end
end
return 1";

fn eval(server: &Server, script: &str, keys: &[String], more: &[String]) -> Reply {
    let count = keys.len().to_string();
    let mut args: Vec<&str> = vec!["EVAL", script, &count];
    args.extend(keys.iter().chain(more).map(String::as_str));
    server.raw(&args)
}

/// Looks at streams of partition 0, in the order of `keys`.
pub(crate) fn look(server: &Server, streams: &Streams, keys: &[String]) -> Vec<Seen> {
    let mut all = vec![streams.keys().sizes(0)];
    all.extend_from_slice(keys);
    eval(server, LOOK, &all, &[]).list().iter().map(read).collect()
}

/// Lets `millis` pass for all entries in delay classes.
pub(crate) fn pass(server: &Server, keys: &[String], millis: u64) {
    assert_eq!(eval(server, PASS, keys, &[millis.to_string()]).int(), 1);
}

fn read(one: &Reply) -> Seen {
    let one = one.list();
    let entries = one[2].list().iter().map(|entry| {
        let entry = entry.list();
        (entry[0].text().to_owned(), entry[1].text().to_owned())
    });
    let held = one[3].list().iter().map(|held| {
        let held = held.list();
        Held {
            id: held[0].text().to_owned(),
            consumer: held[1].text().to_owned(),
            idle_ms: held[2].int().try_into().unwrap(),
            deliveries: held[3].int().try_into().unwrap(),
        }
    });
    let lag = one[4].text();
    let group = (!lag.is_empty()).then(|| Group {
        lag: lag.parse().ok(),
        pending: one[5].text().parse().unwrap(),
        held: held.collect(),
    });
    Seen {
        kind: one[0].text().to_owned(),
        entries: entries.collect(),
        group,
        size: one[1].text().parse().unwrap(),
    }
}
