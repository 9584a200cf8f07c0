//! The child: an archive goes in, its files come out one after the other.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, BufWriter, Read, StdoutLock, Write},
    os::fd::AsFd,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use serde::Serialize;

use super::{
    tar,
    wire::{Entry, Format, Limits, MAX_NAME_BYTES, PIECE_BYTES, Settings, Skipped, Tag, Wrong},
    zip,
};

/// The largest window of zstd, 32 MiB: more than all of its levels up to 20 have.
const ZSTD_WINDOW_LOG: u32 = 25;

/// The whole life of a child. Call it first thing in `main`, before any thread is started.
#[must_use]
pub fn child_main() -> ExitCode {
    riacho_confine::child_main(start)
}

fn start() -> io::Result<()> {
    let argument = std::env::args().next_back().unwrap_or_default();
    let settings: Settings = serde_json::from_str(&argument)?;
    riacho_confine::limit(settings.parent, settings.memory_bytes)
        .map_err(|error| io::Error::other(format!("limits cannot be set: {error}")))?;
    riacho_confine::allow_cpu(Duration::from_secs(settings.cpu_seconds));
    // The stream itself cannot seek; a second handle to its file can. Taken before the doors close.
    let archive = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    riacho_confine::behind_closed_doors(move || unpack(archive, &settings))
}

fn unpack(archive: File, settings: &Settings) -> io::Result<()> {
    let mut out = Out::new(settings.limits);
    out.frame(Tag::Ready, &[])?;
    out.flush()?;
    let stream = BufReader::with_capacity(PIECE_BYTES, archive);
    let done = match settings.format {
        Format::Zip => zip::unpack(stream, &mut out)?,
        Format::Tar => tar::unpack(stream, &mut out)?,
        Format::TarGz => tar::unpack(flate2::bufread::MultiGzDecoder::new(stream), &mut out)?,
        Format::TarZst => {
            let mut decoder = zstd::Decoder::with_buffer(stream)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            tar::unpack(decoder, &mut out)?
        }
    };
    match done {
        Ok(()) => out.frame(Tag::Done, &[])?,
        Err(wrong) => out.json(Tag::Failed, &wrong)?,
    }
    out.flush()
}

/// The path of an entry, as text.
pub(super) struct Name {
    text: String,
    is_whole: bool,
}

impl Name {
    /// `is_whole` says that nothing of it was replaced.
    pub(super) fn new(text: String, is_whole: bool) -> Self {
        Self { text, is_whole }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What is told of an entry of this name.
    fn entry(&self, number: u64, skipped: Option<Skipped>) -> Entry {
        let end = end_of(&self.text);
        Entry { number, is_whole: self.is_whole && end.len() == self.text.len(), name: end, skipped }
    }
}

/// What is said of an archive: it is at its end, or the rest cannot be had. An error of its own is that the
/// parent is gone.
pub(super) type Said = io::Result<Result<(), Wrong>>;

/// The way to the parent, with what is left of the limits.
pub(super) struct Out {
    stream: BufWriter<StdoutLock<'static>>,
    limits: Limits,
    entries: u64,
    unpacked: Cell<u64>,
}

impl Out {
    fn new(limits: Limits) -> Self {
        let stream = BufWriter::with_capacity(PIECE_BYTES, io::stdout().lock());
        Self { stream, limits, entries: 0, unpacked: Cell::new(limits.max_unpacked_bytes) }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    fn frame(&mut self, tag: Tag, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        self.stream.write_all(&[tag.byte()])?;
        self.stream.write_all(&length.to_le_bytes())?;
        self.stream.write_all(payload)
    }

    fn json(&mut self, tag: Tag, payload: &impl Serialize) -> io::Result<()> {
        self.frame(tag, &serde_json::to_vec(payload)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    /// Counts an entry of any kind; gives its number.
    pub(super) fn count(&mut self) -> Result<u64, Wrong> {
        self.entries += 1;
        if self.entries > self.limits.max_entries { Err(Wrong::TooManyEntries) } else { Ok(self.entries) }
    }

    /// Says that an entry is left out.
    pub(super) fn skip(&mut self, number: u64, name: &Name, why: Skipped) -> io::Result<()> {
        self.json(Tag::Entry, &name.entry(number, Some(why)))
    }

    /// Says that a file cannot be had.
    pub(super) fn refuse(&mut self, number: u64, name: &Name, wrong: Wrong) -> io::Result<()> {
        self.json(Tag::Entry, &name.entry(number, None))?;
        self.json(Tag::Refused, &wrong)
    }

    /// Sends a file. `cause` says what an error of the reader means; it is asked once there is one.
    pub(super) fn file(
        &mut self,
        number: u64,
        name: &Name,
        reader: &mut dyn Read,
        cause: impl FnOnce(&io::Error) -> Wrong,
    ) -> Said {
        self.json(Tag::Entry, &name.entry(number, None))?;
        let mut left = self.limits.max_file_bytes;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match reader.read(&mut piece) {
                Ok(0) => break self.frame(Tag::End, &[])?,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let wrong = cause(&error);
                    self.json(Tag::Refused, &wrong)?;
                    return Ok(Err(wrong));
                }
            };
            if !spend(&self.unpacked, read as u64) {
                self.json(Tag::Refused, &Wrong::Bomb)?;
                return Ok(Err(Wrong::Bomb));
            }
            match left.checked_sub(read as u64) {
                Some(rest) => left = rest,
                None => {
                    self.json(Tag::Refused, &Wrong::TooLarge)?;
                    return Ok(Err(Wrong::TooLarge));
                }
            }
            self.frame(Tag::Bytes, &piece[..read])?;
        }
        Ok(Ok(()))
    }
}

/// Takes `bytes` from what is left; false where there is not so much.
fn spend(left: &Cell<u64>, bytes: u64) -> bool {
    let rest = left.get().checked_sub(bytes);
    left.set(rest.unwrap_or(0));
    rest.is_some()
}

/// A packed stream's own bytes, counted: what is skipped has to be unpacked too.
pub(super) struct Counted<R> {
    inner: R,
    seen: Rc<Seen>,
}

/// What a [`Counted`] saw of its stream.
#[derive(Debug)]
pub(super) struct Seen {
    left: Cell<u64>,
    is_over: Cell<bool>,
    at_end: Cell<bool>,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R, most: u64) -> (Self, Rc<Seen>) {
        let seen = Seen { left: Cell::new(most), is_over: Cell::new(false), at_end: Cell::new(false) };
        let seen = Rc::new(seen);
        (Self { inner, seen: Rc::clone(&seen) }, seen)
    }
}

impl Seen {
    /// Whether the last read found the end of the stream.
    pub(super) fn at_end(&self) -> bool {
        self.at_end.get()
    }

    /// What an error of the stream means.
    pub(super) fn cause(&self, error: &io::Error) -> Wrong {
        match error.kind() {
            _ if self.is_over.get() => Wrong::Bomb,
            io::ErrorKind::UnexpectedEof => Wrong::CutOff,
            _ if self.at_end.get() => Wrong::CutOff,
            _ => Wrong::Damaged,
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.seen.at_end.set(read == 0 && !buffer.is_empty());
        if !spend(&self.seen.left, read as u64) {
            self.seen.is_over.set(true);
            return Err(io::Error::other("the stream is longer than is taken"));
        }
        Ok(read)
    }
}

/// The end of a name, where the file's own name is.
fn end_of(name: &str) -> String {
    let mut from = name.len().saturating_sub(MAX_NAME_BYTES);
    while !name.is_char_boundary(from) {
        from += 1;
    }
    name[from..].to_owned()
}

/// Whether a file is one that systems add to archives, which no user means.
pub(super) fn is_system_file(name: &str) -> bool {
    let mut parts = name.split(['/', '\\']).rev();
    let file = parts.next().unwrap_or_default();
    matches!(file, ".DS_Store" | "Thumbs.db" | "desktop.ini")
        || file.starts_with("._")
        || parts.any(|folder| folder == "__MACOSX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systems_add_is_known() {
        for name in ["__MACOSX/a/._b.txt", "a/.DS_Store", "._x", "a\\Thumbs.db", "__MACOSX/x"] {
            assert!(is_system_file(name), "{name}");
        }
        for name in ["a.txt", "a/DS_Store", "__MACOSX", "a/.hidden", "MACOSX/x"] {
            assert!(!is_system_file(name), "{name}");
        }
    }

    #[test]
    fn of_a_long_name_the_end_is_kept() {
        let name = format!("{}/é.txt", "ã".repeat(2_000));
        let kept = end_of(&name);
        assert!(kept.len() <= MAX_NAME_BYTES && kept.ends_with("ã/é.txt"));
        assert_eq!(end_of("a"), "a");
        let entry = |text: &str| Name::new(text.to_owned(), true).entry(1, None);
        assert!(!entry(&name).is_whole && entry("a").is_whole);
        let longest = format!("./{}", "\u{1f600}".repeat(512));
        assert!(entry(&longest).is_whole && !entry(&format!("x{longest}")).is_whole);
    }
}
