//! What a census and a purge need of the streams: whether a partition may have lost something, and whose entries
//! stand on it.

use std::collections::{BTreeMap, HashMap, HashSet};

use riacho_domain::{DocumentId, ReleaseId, StageName};
use riacho_proto::{Message, v1::Envelope};

use crate::{
    Error, ServerIdentity, Streams,
    client::{Conn, Value, list},
    entry,
};

/// So many entries are looked at in one call. The script copies each whole, a quarter of a megabyte at most.
const PAGE: i64 = 64;
/// Document and release stand among an envelope's first fields, far within so many bytes.
const HEAD_BYTES: i64 = 1024;

/// Some entries of a stream, each with its id and the address on its envelope.
struct Heads {
    entries: Vec<(String, Envelope)>,
    /// Where the next page begins; none at the end.
    next: Option<String>,
}

/// What a partition's streams looked like at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Road {
    server: ServerIdentity,
    /// A random text that is lost with the data.
    epoch: String,
    /// How often a group was made. A deleted stream takes its group with it, and counts its entries from the
    /// beginning; where it is soon filled again, only the group that is made again tells of it.
    groups_made: u64,
    /// How many entries were ever added to each stream.
    added: Vec<u64>,
}

impl Road {
    /// What the streams of a partition would look like with these.
    #[must_use]
    pub fn of(run_id: &str, epoch: &str, groups_made: u64, added: &[u64]) -> Road {
        let server = ServerIdentity { run_id: run_id.to_owned(), ..ServerIdentity::default() };
        Road { server, epoch: epoch.to_owned(), groups_made, added: added.to_vec() }
    }

    /// Whether nothing can have been lost between `before` and this look: the same server, the same data, and no
    /// stream that was added to less often.
    #[must_use]
    pub fn goes_on_from(&self, before: &Road) -> bool {
        self.server == before.server
            && self.epoch == before.epoch
            && !self.epoch.is_empty()
            && self.groups_made == before.groups_made
            && self.added.len() == before.added.len()
            && self.added.iter().zip(&before.added).all(|(now, then)| now >= then)
    }
}

impl Streams {
    /// Looks at a partition. Loss shows in one of five ways: FLUSHALL takes the epoch, a restart changes the run
    /// id, a failover the replication id, a deleted stream begins to count anew, and its group is made again.
    pub async fn road(&self, partition: u16) -> Result<Road, Error> {
        let mut keys = vec![self.keys().epoch(partition), self.keys().groups_made(partition)];
        keys.extend(self.flow(partition).into_iter().map(|(key, _)| key));
        let epoch = format!("{:016x}", rand::random::<u64>());
        let reply = list(self.scripts().road.run(&self.conn(), &keys, vec![epoch.into()]).await?);
        let mut reply = reply.into_iter();
        let mut text = |what| reply.next().and_then(Value::into_string).ok_or(Error::Reply(what));
        let server = ServerIdentity { run_id: text("run id")?, replication_id: text("replication id")? };
        let epoch = text("epoch")?;
        let groups_made = reply.next().and_then(|count| count.as_u64()).ok_or(Error::Reply("groups made"))?;
        let added = reply.map(|count| count.as_u64().ok_or(Error::Reply("entries added")));
        Ok(Road { server, epoch, groups_made, added: added.collect::<Result<_, _>>()? })
    }

    /// Every release that has an entry on a partition, dead letters included. Entries only move forward and the
    /// streams are read in the order of the flow, so one that stands somewhere all the time is not missed.
    pub async fn releases_on(&self, partition: u16) -> Result<HashSet<ReleaseId>, Error> {
        let conn = self.conn();
        let mut found = HashSet::new();
        for (key, _) in self.flow(partition) {
            let mut from = Some("-".to_owned());
            while let Some(begin) = from {
                let page = heads(self, &conn, &key, begin).await?;
                found.extend(page.entries.iter().filter_map(|(_, head)| release_of(head)));
                from = page.next;
            }
        }
        Ok(found)
    }

    /// Removes every entry of these documents from a partition, whoever holds it, dead letters included, and says how
    /// many of each there were. What runs for such an entry meanwhile finds it gone and hands nothing on. In the order of
    /// the flow, as [`Streams::releases_on`].
    pub async fn remove_documents(
        &self,
        partition: u16,
        documents: &HashSet<DocumentId>,
    ) -> Result<HashMap<DocumentId, u64>, Error> {
        let conn = self.conn();
        let mut removed = HashMap::new();
        for (key, group) in self.flow(partition) {
            let mut from = Some("-".to_owned());
            while let Some(begin) = from {
                let page = heads(self, &conn, &key, begin).await?;
                let mut ids: BTreeMap<DocumentId, Vec<String>> = BTreeMap::new();
                for (id, head) in page.entries {
                    let document = head.document.parse().ok();
                    if let Some(document) = document.filter(|document| documents.contains(document)) {
                        ids.entry(document).or_default().push(id);
                    }
                }
                for (document, ids) in ids {
                    *removed.entry(document).or_default() +=
                        self.remove(partition, &key, group, &ids).await?;
                }
                from = page.next;
            }
        }
        Ok(removed)
    }

    /// A partition's streams in the order in which work passes them, each with its group.
    fn flow(&self, partition: u16) -> Vec<(String, Option<StageName>)> {
        let lanes = |stage| self.keys().lanes(partition, stage).map(|key| (key, Some(stage)));
        let work = StageName::ALL.into_iter().flat_map(lanes);
        work.chain([(self.keys().dead(partition), None)]).collect()
    }
}

/// A page of a stream, from an entry on.
async fn heads(streams: &Streams, conn: &Conn, key: &str, from: String) -> Result<Heads, Error> {
    let args = vec![from.into(), PAGE.into(), HEAD_BYTES.into()];
    let page = list(streams.scripts().heads.run(conn, &[key.to_owned()], args).await?);
    let is_last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
    let mut entries = Vec::with_capacity(page.len());
    for head in page {
        let mut parts = list(head).into_iter();
        let id = parts.next().and_then(Value::into_string).ok_or(Error::Reply("entry id"))?;
        let head = parts.next().and_then(Value::into_bytes).ok_or(Error::Reply("envelope"))?;
        let envelope = address(conn, key, &id, &head).await?;
        entries.push((id, envelope));
    }
    let next = entries.last().filter(|_| !is_last).map(|(id, _)| format!("({id}"));
    Ok(Heads { entries, next })
}

/// The envelope of an entry that begins with `head`, as far as its release; where that is cut off, all of it.
async fn address(conn: &Conn, key: &str, id: &str, head: &[u8]) -> Result<Envelope, Error> {
    let envelope = read(head);
    let is_cut = i64::try_from(head.len()).unwrap_or(i64::MAX) >= HEAD_BYTES;
    if !is_cut || release_of(&envelope).is_some() {
        return Ok(envelope);
    }
    let args = vec![key.into(), id.into(), id.into()];
    let whole = entry::pairs(conn.call("XRANGE", Some(key), args).await?)?;
    Ok(whole.first().map_or(envelope, |(_, bytes, _)| read(bytes)))
}

/// Reads an envelope, or what of it stands in the beginning of one.
fn read(bytes: &[u8]) -> Envelope {
    let mut envelope = Envelope::default();
    // Where the bytes end too early this fails, and has read the fields before.
    let _ = envelope.merge(bytes);
    envelope
}

/// The release that an entry is of, if it is of one.
fn release_of(envelope: &Envelope) -> Option<ReleaseId> {
    envelope.release.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn road(epoch: &str, run_id: &str, added: &[u64]) -> Road {
        Road::of(run_id, epoch, 9, added)
    }

    #[test]
    fn a_partition_goes_on_while_server_and_epoch_stay_and_no_count_goes_back() {
        let before = road("e", "1", &[5, 0]);
        assert!(road("e", "1", &[5, 0]).goes_on_from(&before));
        assert!(road("e", "1", &[9, 2]).goes_on_from(&before));
        assert!(!road("e", "1", &[4, 2]).goes_on_from(&before), "a stream was deleted");
        let refilled = Road::of("1", "e", 10, &[7, 0]);
        assert!(!refilled.goes_on_from(&before), "a stream was deleted, filled again, and read again");
        assert!(!road("f", "1", &[9, 2]).goes_on_from(&before), "the data were flushed");
        assert!(!road("e", "2", &[9, 2]).goes_on_from(&before), "the server was restarted");
        assert!(!road("", "1", &[9, 2]).goes_on_from(&road("", "1", &[5, 0])), "no epoch could be written");
    }

    #[test]
    fn a_release_is_read_out_of_the_beginning_of_an_envelope() {
        let release = ReleaseId::new();
        let envelope = Envelope {
            id: "an id".to_owned(),
            tenant: "acme".to_owned(),
            release: release.to_string(),
            payload: Some(riacho_proto::v1::envelope::Payload::Compressed(
                riacho_proto::v1::CompressedPayload { zstd: vec![1; 5_000].into(), uncompressed_size: 9_000 },
            )),
            ..Envelope::default()
        };
        let bytes = envelope.encode_to_vec();
        assert_eq!(release_of(&read(&bytes)), Some(release));
        assert_eq!(release_of(&read(&bytes[..1024])), Some(release));
        assert_eq!(release_of(&read(&bytes[..20])), None);
        assert_eq!(release_of(&read(b"no envelope at all")), None);
    }
}
