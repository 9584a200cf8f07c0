//! Tar archives, in a stream.

use std::io::{self, Read};

use tar::{Archive, EntryType};

use super::{
    child::{Counted, Out, Said, is_system_file},
    wire::{Skipped, Wrong},
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
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match kind {
            // The second is a header for the whole archive, such as `git archive` writes.
            EntryType::Directory | EntryType::XGlobalHeader => {}
            // Archives of before 1988 know a folder by the end of its name.
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse if name.ends_with('/') => {}
            _ if is_system_file(&name) => out.skip(number, &name, Skipped::SystemFile)?,
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
    match io::copy(&mut archive.into_inner(), &mut io::sink()) {
        Ok(_) => Ok(Ok(())),
        Err(error) => Ok(Err(seen.cause(&error))),
    }
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
