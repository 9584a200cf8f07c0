//! Tar archives, in a stream.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use tar::{Archive, Entry, EntryType};

use super::{
    child::{Counted, Name, Out, Said, is_system_file},
    wire::{PIECE_BYTES, Skipped, Wrong},
};

/// Sends the files of a tar archive.
pub(super) fn unpack(stream: impl Read, out: &mut Out) -> Said {
    // Headers and padding come on top of the files: a block before each, and what fills the last one.
    let overhead = out.limits().max_entries.saturating_mul(4 << 10).saturating_add(1 << 20);
    let most = out.limits().max_unpacked_bytes.saturating_add(overhead);
    let (counted, seen) = Counted::new(stream, most);
    let mut archive = Archive::new(counted);
    let mut some = false;
    for entry in archive.entries()? {
        let mut entry = match entry {
            Ok(entry) => entry,
            // What does not begin like an archive is none.
            Err(error) => {
                return Ok(Err(match seen.cause(&error) {
                    Wrong::Damaged | Wrong::CutOff if !some => Wrong::Unreadable,
                    wrong => wrong,
                }));
            }
        };
        some = true;
        let kind = entry.header().entry_type();
        let number = match out.count() {
            Ok(number) => number,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let name = name_of(&entry.path_bytes());
        match kind {
            // The second is a header for the whole archive, such as `git archive` writes.
            EntryType::Directory | EntryType::XGlobalHeader => {}
            // Archives of before 1988 know a folder by the end of its name.
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse
                if name.as_str().ends_with('/') => {}
            _ if is_system_file(name.as_str()) => out.skip(number, &name, Skipped::SystemFile)?,
            EntryType::Regular if is_sparse(&mut entry) => out.refuse(number, &name, Wrong::Sparse)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let size = entry.size();
                let mut short = Whole { inner: &mut entry, left: size };
                match out.file(number, &name, &mut short, |error| seen.cause(error))? {
                    // The next entry is where its header says.
                    Ok(()) | Err(Wrong::TooLarge) => {}
                    Err(wrong) => return Ok(Err(wrong)),
                }
            }
            EntryType::Symlink => out.skip(number, &name, Skipped::Symlink)?,
            EntryType::Link => out.skip(number, &name, Skipped::HardLink)?,
            _ => out.skip(number, &name, Skipped::Special)?,
        }
    }
    if seen.at_end() {
        // Whole archives end with blocks of zeros.
        return Ok(Err(if some { Wrong::CutOff } else { Wrong::Unreadable }));
    }
    // What is behind the archive's end is read to the end: there stands the checksum of what is compressed.
    Ok(rest(archive.into_inner()).map_err(|error| seen.cause(&error)).and_then(|is_empty| match is_empty {
        true => Ok(()),
        // Another archive, or files behind a block that was damaged: they must not get lost without a word.
        false => Err(Wrong::MoreBehind),
    }))
}

fn name_of(path: &[u8]) -> Name {
    match String::from_utf8_lossy(path) {
        Cow::Borrowed(path) => Name::new(path.to_owned(), true),
        Cow::Owned(path) => Name::new(path, false),
    }
}

/// Whether what is left is zeros only, which fill the last record of an archive.
fn rest(mut stream: impl Read) -> io::Result<bool> {
    let (mut piece, mut is_empty) = (vec![0; PIECE_BYTES], true);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(is_empty),
            Ok(read) => is_empty &= piece[..read].iter().all(|byte| *byte == 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether an entry is a file with holes as POSIX tar writes it: its bytes are a map and what is between the holes.
fn is_sparse<R: Read>(entry: &mut Entry<'_, R>) -> bool {
    let extensions = entry.pax_extensions().ok().flatten();
    extensions
        .into_iter()
        .flatten()
        .flatten()
        .any(|extension| extension.key_bytes().starts_with(b"GNU.sparse."))
}

/// A file that must have the length that its header says: the library takes the end of the stream for the
/// end of the file.
struct Whole<'a, R> {
    inner: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}
