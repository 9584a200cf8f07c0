//! Looks for a word in all that a deployment keeps: every column of every table, every key of Redis and every object, also
//! inside of what is compressed, and inside of what is compressed in that.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use riacho_local::testing::{Reply, TestDatabase, TestRedis};

/// What a frame of Zstandard begins with.
const ZSTD: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// All that a key holds, each part in hexadecimal: the test's connection reads text only.
const CONTENTS: &str = "
local kind, out, digits = redis.call('TYPE', KEYS[1]).ok, {}, {}
for byte = 0, 255 do digits[string.char(byte)] = string.format('%02x', byte) end
local function add(value)
  if type(value) == 'table' then
    for _, part in ipairs(value) do add(part) end
  else
    out[#out + 1] = (string.gsub(tostring(value), '.', digits))
  end
end
if kind == 'string' then add(redis.call('GET', KEYS[1]))
elseif kind == 'hash' then add(redis.call('HGETALL', KEYS[1]))
elseif kind == 'stream' then add(redis.call('XRANGE', KEYS[1], '-', '+'))
elseif kind == 'list' then add(redis.call('LRANGE', KEYS[1], 0, -1))
elseif kind == 'set' then add(redis.call('SMEMBERS', KEYS[1]))
elseif kind == 'zset' then add(redis.call('ZRANGE', KEYS[1], 0, -1))
elseif kind ~= 'none' then return redis.error_reply(KEYS[1] .. ' is of a type that is not read: ' .. kind) end
return out";

/// A word, in small letters and ASCII, that stands nowhere but where a test put it.
#[derive(Debug, Clone, Copy)]
pub struct Canary(pub &'static str);

impl Canary {
    /// Where it stands: `postgresql TABLE.COLUMN`, `redis KEY` and `object PATH`.
    pub fn places(self, database: &TestDatabase, redis: &TestRedis, objects: &Path) -> BTreeSet<String> {
        let mut places = self.in_postgresql(database);
        places.extend(self.in_redis(redis));
        for path in files(objects) {
            let path = path.as_path();
            let name = path.strip_prefix(objects).unwrap().display().to_string();
            if self.is_in(name.as_bytes()) || self.is_in(&fs::read(path).unwrap_or_default()) {
                places.insert(format!("object {name}"));
            }
        }
        places
    }

    /// Columns of bytes are read as bytes, all others as the text that PostgreSQL makes of them.
    fn in_postgresql(self, database: &TestDatabase) -> BTreeSet<String> {
        let columns = "SELECT c.oid::regclass::text, quote_ident(a.attname), a.atttypid = 'bytea'::regtype
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'm')";
        let columns = database.run(columns);
        assert!(columns.len() > 100, "{columns:?}");
        let of_column = |row: &Vec<Option<String>>| {
            let [Some(table), Some(column), Some(is_bytes)] = row.as_slice() else { panic!("{row:?}") };
            if is_bytes == "t" {
                format!(
                    "SELECT '{table}.{column}', encode({column}, 'hex') FROM {table} WHERE {column} IS NOT NULL"
                )
            } else {
                format!(
                    "SELECT '{table}.{column}', NULL FROM {table} WHERE lower({column}::text) LIKE '%{}%'",
                    self.0
                )
            }
        };
        let sql = columns.iter().map(of_column).collect::<Vec<_>>().join("\nUNION ALL\n");
        let mut places = BTreeSet::new();
        for row in database.run(&sql) {
            let column = row[0].as_deref().unwrap();
            if row[1].as_deref().is_none_or(|hex| self.is_in(&bytes(hex))) {
                places.insert(format!("postgresql {column}"));
            }
        }
        places
    }

    fn in_redis(self, redis: &TestRedis) -> BTreeSet<String> {
        let mut places = BTreeSet::new();
        for key in redis.command(&["KEYS", "*"]).list() {
            let key = key.text();
            let held = match redis.command(&["EVAL", CONTENTS, "1", key]) {
                Reply::List(parts) => parts,
                other => panic!("{key}: {other:?}"),
            };
            if self.is_in(key.as_bytes()) || held.iter().any(|part| self.is_in(&bytes(part.text()))) {
                places.insert(format!("redis {key}"));
            }
        }
        places
    }

    /// Whether it stands in these bytes, or in what is compressed in them.
    fn is_in(self, bytes: &[u8]) -> bool {
        let mark = self.0.as_bytes();
        if bytes.windows(mark.len()).any(|window| window.eq_ignore_ascii_case(mark)) {
            return true;
        }
        let frames = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&ZSTD));
        frames.filter_map(|at| inflated(&bytes[at..])).any(|inflated| self.is_in(&inflated))
    }
}

/// The frame of Zstandard that bytes begin with; none where they only look so.
fn inflated(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut inflated = Vec::new();
    zstd::stream::read::Decoder::new(bytes).ok()?.single_frame().read_to_end(&mut inflated).ok()?;
    Some(inflated)
}

/// All files below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digits).collect()
}
