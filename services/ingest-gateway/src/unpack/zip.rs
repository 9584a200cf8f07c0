//! Zip archives, by their directory.

use std::io::{self, BufReader, Read, Seek};

use zip::{ZipArchive, result::ZipError};

use super::{
    child::{Name, Out, Said, is_system_file},
    wire::{Skipped, Wrong},
};

/// The kind of file in a Unix mode.
const KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// Sends the files of a zip archive.
pub(super) fn unpack<R: Read + Seek>(stream: BufReader<R>, out: &mut Out) -> Said {
    let mut archive = match open(stream, out) {
        Ok(archive) => archive,
        Err(wrong) => return Ok(Err(wrong)),
    };
    for index in 0..archive.len() {
        let number = match out.count() {
            Ok(number) => number,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let name = match archive.name_for_index(index) {
            // What was no UTF-8 was replaced.
            Some(Ok(name)) => {
                let is_whole = !name.contains(char::REPLACEMENT_CHARACTER);
                Name::new(name.into_owned(), is_whole)
            }
            _ => Name::new(String::new(), false),
        };
        let mut file = match archive.by_index(index) {
            Ok(file) => file,
            Err(error) => {
                out.refuse(number, &name, wrong(&error))?;
                continue;
            }
        };
        if file.is_dir() {
            continue;
        }
        let skipped = match file.unix_mode().map_or(REGULAR, |mode| mode & KIND) {
            _ if is_system_file(name.as_str()) => Some(Skipped::SystemFile),
            _ if file.is_symlink() => Some(Skipped::Symlink),
            // Systems other than Unix leave the kind out.
            0 | REGULAR => None,
            _ => Some(Skipped::Special),
        };
        if let Some(why) = skipped {
            out.skip(number, &name, why)?;
            continue;
        }
        // After any other fault the next file stands for itself.
        if let Err(Wrong::Bomb) = out.file(number, &name, &mut file, cause)? {
            return Ok(Err(Wrong::Bomb));
        }
    }
    Ok(Ok(()))
}

/// Opens an archive, and refuses it by what its directory says already.
fn open<R: Read + Seek>(stream: BufReader<R>, out: &Out) -> Result<ZipArchive<BufReader<R>>, Wrong> {
    let mut archive = ZipArchive::new(stream).map_err(|error| match wrong(&error) {
        Wrong::Damaged => Wrong::Unreadable,
        wrong => wrong,
    })?;
    if archive.len() as u64 > out.limits().max_entries {
        return Err(Wrong::TooManyEntries);
    }
    if archive.has_duplicate_names() {
        return Err(Wrong::DuplicateNames);
    }
    // Entries that share their bytes are a way to pack petabytes into a small file.
    if archive.has_overlapping_files().map_err(|_| Wrong::Unreadable)? {
        return Err(Wrong::Bomb);
    }
    if archive.decompressed_size().is_some_and(|size| size > u128::from(out.limits().max_unpacked_bytes)) {
        return Err(Wrong::Bomb);
    }
    Ok(archive)
}

fn wrong(error: &ZipError) -> Wrong {
    match error {
        ZipError::UnsupportedArchive(why) if why.contains("assword") => Wrong::Encrypted,
        ZipError::InvalidPassword => Wrong::Encrypted,
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => Wrong::Compression,
        _ => Wrong::Damaged,
    }
}

fn cause(error: &io::Error) -> Wrong {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Wrong::CutOff,
        io::ErrorKind::Unsupported => Wrong::Compression,
        _ => Wrong::Damaged,
    }
}
