//! Documents as files of an archive: received whole, unpacked by a child, accepted one after the other.

use std::{
    fs::File,
    io::{self, Read, Seek},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::{
    held::Paid,
    run::{Body, Item, Run, Stop, stops},
    shapes::{ItemBody, Place},
};
use crate::{
    Config,
    http::{
        App,
        body::{self, Incoming},
        problem::Problem,
        settings::{Settings, external_id},
    },
    unpack::{Broken, Entry, Format, Frame, Limits, Unpacking, Wrong},
};

/// Files up to this size are stored some at once, larger ones one after the other, as they come out.
const SMALL_BYTES: usize = 256 << 10;
/// An archive that unpacks to less is no bomb, whatever its ratio.
const HARMLESS_BYTES: u64 = 16 << 20;
/// How much of an archive says what it is.
const MAGIC_BYTES: u64 = 512;

/// An archive that begins to be unpacked: its format, the child, and what the child said first.
pub(super) struct Opened {
    format: Format,
    unpacking: Unpacking,
    first: Frame,
    max_file_bytes: u64,
    by_path: bool,
}

/// Receives an archive, and looks into it.
pub(super) async fn open(
    app: &App,
    format: Format,
    by_path: bool,
    mut body: Incoming,
    deadline: Instant,
) -> Result<Opened, Problem> {
    let config = app.config();
    let (mut file, size) = tokio::select! {
        received = receive(&mut body, config) => received?,
        () = app.stopping().cancelled() => return Err(stops()),
        () = tokio::time::sleep_until(deadline) => return Err(Problem::timed_out()),
    };
    check_format(&mut file, format)?;
    let bulk = &config.bulk;
    let limits = Limits {
        max_entries: bulk.max_items,
        max_file_bytes: config.max_upload_bytes,
        max_unpacked_bytes: size
            .saturating_mul(bulk.max_unpacked_ratio)
            .max(HARMLESS_BYTES)
            .min(bulk.max_unpacked_bytes),
    };
    let broken = |error: Broken| problem_of(&error);
    let mut unpacking = app.unpacker()?.start(file, format, limits).await.map_err(broken)?;
    let first = unpacking.next().await.map_err(broken)?;
    let max_file_bytes = config.max_upload_bytes;
    match first {
        // Nothing was accepted, so the answer can still be a problem.
        Frame::Failed(wrong) => Err(refusal(wrong, format, max_file_bytes)),
        first => Ok(Opened { format, unpacking, first, max_file_bytes, by_path }),
    }
}

/// Keeps the body in a file that has no name, and is gone when nobody has it open any more.
async fn receive(body: &mut Incoming, config: &Config) -> Result<(File, u64), Problem> {
    let directory = config.bulk.directory.clone().unwrap_or_else(std::env::temp_dir);
    let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(directory)).await;
    let made = made.map_err(|error| Problem::internal(&error))?.map_err(|error| disk(&error))?;
    let mut file = tokio::fs::File::from_std(made);
    let mut size = 0;
    while let Some(piece) = body.piece().await {
        let piece = piece?;
        size += piece.len() as u64;
        if size > config.bulk.max_bytes {
            return Err(Problem::too_large("body", config.bulk.max_bytes));
        }
        file.write_all(&piece).await.map_err(|error| disk(&error))?;
    }
    file.flush().await.map_err(|error| disk(&error))?;
    let mut file = file.into_std().await;
    file.rewind().map_err(|error| disk(&error))?;
    Ok((file, size))
}

fn disk(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Problem::out_of_space()
        }
        _ => Problem::internal(&format!("an archive cannot be kept (gateway.bulk.directory): {error}")),
    }
}

/// Refuses what is not of the format that the request names.
fn check_format(file: &mut File, named: Format) -> Result<(), Problem> {
    let mut head = Vec::new();
    file.take(MAGIC_BYTES).read_to_end(&mut head).map_err(|error| disk(&error))?;
    file.rewind().map_err(|error| disk(&error))?;
    if head.is_empty() {
        return Err(Problem::empty());
    }
    match format_of(&head) {
        Some(found) if found != named => Err(Problem::archive(
            "archive_mismatch",
            format!("the body is {}, and its content type says {}", name_of(found), name_of(named)),
        )),
        // Old tar archives have no mark, and zip archives may begin with a program that unpacks them; what they are shows
        // when they are read.
        None if !matches!(named, Format::Tar | Format::Zip) => Err(refusal(Wrong::Unreadable, named, 0)),
        _ => Ok(()),
    }
}

/// What a file is by its first bytes.
fn format_of(head: &[u8]) -> Option<Format> {
    match head {
        // Files, none, and files in an archive that was meant for several disks.
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] | [b'P', b'K', 7, 8, ..] => Some(Format::Zip),
        [0x1f, 0x8b, ..] => Some(Format::TarGz),
        // A frame, or one to be skipped (RFC 8878), with which some compressors begin.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Format::TarZst),
        _ if head.get(257..262) == Some(b"ustar") => Some(Format::Tar),
        _ => None,
    }
}

const fn name_of(format: Format) -> &'static str {
    match format {
        Format::Zip => "a zip archive",
        Format::Tar => "a tar archive",
        Format::TarGz => "a tar archive in gzip",
        Format::TarZst => "a tar archive in zstd",
    }
}

/// Takes the files of an archive in.
pub(super) async fn read(mut run: Run, opened: Opened) -> Result<(), Stop> {
    let Opened { format, mut unpacking, first, max_file_bytes, by_path } = opened;
    let mut frame = first;
    loop {
        match frame {
            Frame::Entry(Entry { number, name, skipped: Some(why), .. }) => {
                run.say(ItemBody::skipped(Place::Entry(number), name, why)).await?;
            }
            Frame::Entry(entry) => {
                let pieces =
                    Pieces { unpacking: &mut unpacking, format, max_file_bytes, ended: false, broken: None };
                file(&mut run, pieces, entry, by_path).await?;
            }
            Frame::Done => return Ok(()),
            Frame::Failed(wrong) => return Err(refusal(wrong, format, max_file_bytes).into()),
            Frame::Bytes(_) | Frame::End | Frame::Refused(_) => return Err(problem_of(&Broken::Crash).into()),
        }
        frame = run.unless_over(unpacking.next()).await?.map_err(|error| problem_of(&error))?;
    }
}

/// Takes one file in.
async fn file(run: &mut Run, mut pieces: Pieces<'_>, entry: Entry, by_path: bool) -> Result<(), Stop> {
    let place = Place::Entry(entry.number);
    let received = received(run, &mut pieces, &entry, by_path).await?;
    // What is left of a file that was refused has to be read for the next one.
    run.unless_over(pieces.finish()).await?;
    let broken = pieces.broken.take();
    match received {
        Ok((settings, body, paid)) => {
            let item = Item { place, name: entry.name, content_type: None, settings, body };
            run.take(item, paid).await?;
        }
        Err(problem) => run.refuse(place, Some(entry.name), problem).await?,
    }
    broken.map_or(Ok(()), |error| Err(problem_of(&error).into()))
}

/// What a file says of its document, its bytes, and what was paid for it. The inner problem is of the file.
async fn received(
    run: &mut Run,
    pieces: &mut Pieces<'_>,
    entry: &Entry,
    by_path: bool,
) -> Result<Result<(Settings, Body, Paid), Problem>, Stop> {
    let settings = match settings_of(entry, by_path) {
        Ok(settings) => settings,
        Err(problem) => return Ok(Err(problem)),
    };
    if let Err(problem) = run.is_first_of(&settings) {
        return Ok(Err(problem));
    }
    // Looked at before anything is paid: what is empty or cannot be had does not wait for the rate.
    let first = match run.unless_over(pieces.next()).await? {
        Some(Ok(piece)) => piece,
        Some(Err(refusal)) => return Ok(Err(refusal.into())),
        None => return Ok(Err(Problem::empty())),
    };
    let paid = match run.pay().await? {
        Ok(paid) => paid,
        Err(problem) => return Ok(Err(problem)),
    };
    match run.unless_over(body_of(run, pieces, first)).await? {
        Ok(body) => Ok(Ok((settings, body, paid))),
        Err(problem) => {
            paid.give_back().await;
            Ok(Err(problem))
        }
    }
}

/// What an entry says of its document: with `by_path` the external id.
fn settings_of(entry: &Entry, by_path: bool) -> Result<Settings, Problem> {
    if !by_path {
        return Ok(Settings::default());
    }
    // `tar c .` writes `./a.txt`, and `zip -r` for the same file `a.txt`.
    let path = entry.name.trim_start_matches("./");
    match external_id(path) {
        // Two paths must not look the same because something of them was replaced or cut off.
        Ok(id) if entry.is_whole => Ok(Settings { external_id: Some(id), ..Settings::default() }),
        _ => Err(Problem::field(
            "by_path",
            "needs paths that can be external ids: UTF-8, at most 512 characters, none of them a control character",
        )),
    }
}

/// The bytes of a file: small ones in memory, others in the object store.
async fn body_of(run: &Run, pieces: &mut Pieces<'_>, first: Bytes) -> Result<Body, Problem> {
    let mut head = BytesMut::from(first);
    while head.len() <= SMALL_BYTES {
        match pieces.next().await {
            Some(piece) => head.extend_from_slice(&piece?),
            None => return Ok(Body::Here(head.freeze())),
        }
    }
    let (original, limit) = (run.new_original(), pieces.max_file_bytes);
    let rest = stream::unfold(pieces, |pieces| async move {
        let piece = pieces.next().await?;
        Some((piece, pieces))
    });
    let whole = stream::iter([Ok(head.freeze())]).chain(rest);
    let stored = body::store(run.app().objects(), original.key(), Box::pin(whole), limit).await?;
    Ok(Body::Stored(original, stored))
}

/// The bytes of the file that has begun.
struct Pieces<'a> {
    unpacking: &'a mut Unpacking,
    format: Format,
    max_file_bytes: u64,
    ended: bool,
    broken: Option<Broken>,
}

/// Why a file has no more bytes.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.detail())]
struct Refusal(Problem);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        refusal.0
    }
}

impl Pieces<'_> {
    async fn next(&mut self) -> Option<Result<Bytes, Refusal>> {
        if self.ended {
            return None;
        }
        let frame = self.unpacking.next().await;
        self.ended = !matches!(frame, Ok(Frame::Bytes(_)));
        match frame {
            Ok(Frame::Bytes(piece)) => Some(Ok(piece)),
            Ok(Frame::End) => None,
            Ok(Frame::Refused(wrong)) => Some(Err(Refusal(refusal(wrong, self.format, self.max_file_bytes)))),
            Ok(_) => Some(Err(self.is_broken(Broken::Crash))),
            Err(error) => Some(Err(self.is_broken(error))),
        }
    }

    fn is_broken(&mut self, error: Broken) -> Refusal {
        let problem = problem_of(&error);
        self.broken = Some(error);
        Refusal(problem)
    }

    async fn finish(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// Why a file or an archive is refused, as a client sees it.
fn refusal(wrong: Wrong, format: Format, max_file_bytes: u64) -> Problem {
    let (code, detail) = match wrong {
        Wrong::TooLarge => return Problem::too_large("file", max_file_bytes),
        Wrong::Encrypted => ("encrypted", "it is protected with a password".to_owned()),
        Wrong::Compression => {
            ("unsupported_compression", "it is compressed in a way that is not known here".to_owned())
        }
        Wrong::Damaged => ("damaged", "the archive is damaged: its bytes are not what they were".to_owned()),
        Wrong::MoreBehind => (
            "damaged",
            "behind the end of the archive there is more, which was not read; send archives one by one"
                .to_owned(),
        ),
        Wrong::Sparse => (
            "unsupported_compression",
            "it is stored with holes in a way that is not known here (`tar --sparse --format=posix`)"
                .to_owned(),
        ),
        Wrong::CutOff => ("cut_off", "the archive ends too early".to_owned()),
        Wrong::Unreadable => {
            ("archive_unreadable", format!("the body is not {}, or only a part of one", name_of(format)))
        }
        Wrong::DuplicateNames => {
            ("duplicate_names", "the archive has two files of the same name; give each its own".to_owned())
        }
        Wrong::TooManyEntries => {
            ("too_many_entries", "the archive has too many entries; send several".to_owned())
        }
        Wrong::Bomb => {
            ("bomb", "the archive unpacks to more than is taken, or to far more than its size".to_owned())
        }
    };
    Problem::archive(code, detail)
}

fn problem_of(error: &Broken) -> Problem {
    match error {
        Broken::Start(_) => Problem::internal(error),
        Broken::ByOthers(_) => {
            tracing::warn!(%error, "an archive was not unpacked");
            Problem::unavailable("unpacking was interrupted")
        }
        Broken::Memory | Broken::Time | Broken::Crash => {
            Problem::archive("archive_unreadable", error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_told_by_its_first_bytes() {
        let mut tar = vec![0; 300];
        tar[257..262].copy_from_slice(b"ustar");
        for (head, format) in [
            (&b"PK\x03\x04.."[..], Some(Format::Zip)),
            (b"PK\x05\x06", Some(Format::Zip)),
            (b"\x1f\x8b\x08", Some(Format::TarGz)),
            (b"\x28\xb5\x2f\xfd", Some(Format::TarZst)),
            (&tar, Some(Format::Tar)),
            (b"", None),
            (b"PK\x07\x08PK", Some(Format::Zip)),
            (b"\x52\x2a\x4d\x18", Some(Format::TarZst)),
            (b"PK", None),
            (b"{\"filename\":", None),
        ] {
            assert_eq!(format_of(head), format, "{head:?}");
        }
    }
}
