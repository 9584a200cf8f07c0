//! Packed files, read within bounds: the directory first, then each entry through a counter.

use std::io::{Cursor, Read};

use riacho_domain::ReasonCode;
use zip::{ZipArchive, result::ZipError};

use super::Limits;
use crate::extracted::Failure;

/// Below this size a file is no bomb, whatever its ratio: empty sheets pack extremely well.
const SMALL_BYTES: u64 = 16 << 20;

/// A packed file with what is left of its budget.
pub(super) struct Container<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    budget: u64,
}

impl<'a> Container<'a> {
    /// Opens a packed file and refuses it by what its directory says already.
    pub(super) fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, Failure> {
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| failure(&error))?;
        if archive.len() as u64 > limits.max_packed_entries {
            let message = format!(
                "the file packs {} entries; at most {} are taken",
                archive.len(),
                limits.max_packed_entries
            );
            return Err(Failure::new(ReasonCode::TooLarge, message));
        }
        // Entries that share their bytes are a way to pack petabytes into a small file.
        if archive.has_overlapping_files().map_err(|error| failure(&error))? {
            return Err(bomb());
        }
        let budget = budget(bytes.len() as u64, limits);
        let declared = archive.decompressed_size().unwrap_or(0);
        if declared > u128::from(budget) {
            return Err(bomb());
        }
        Ok(Self { archive, budget })
    }

    /// The bytes of an entry, or nothing where there is none of that name.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let entry = match self.archive.by_name(name) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(failure(&error)),
        };
        let mut bytes = Vec::new();
        // The declared size may lie, so what counts is what comes out.
        entry.take(self.budget + 1).read_to_end(&mut bytes).map_err(|error| {
            Failure::new(ReasonCode::Corrupt, format!("the packed file is damaged: {error}"))
        })?;
        self.budget = self.budget.checked_sub(bytes.len() as u64).ok_or_else(bomb)?;
        Ok(Some(bytes))
    }

    /// The bytes of an entry that the format cannot do without.
    pub(super) fn require(&mut self, name: &str) -> Result<Vec<u8>, Failure> {
        self.read(name)?.ok_or_else(|| {
            Failure::new(ReasonCode::Corrupt, format!("the packed file lacks its part {name}"))
        })
    }
}

/// How much a packed file of `size` bytes may unpack to.
pub(super) fn budget(size: u64, limits: &Limits) -> u64 {
    size.saturating_mul(limits.max_unpacked_ratio).max(SMALL_BYTES).min(limits.max_unpacked_bytes)
}

fn bomb() -> Failure {
    Failure::new(ReasonCode::Bomb, "the file unpacks to far more than its size")
}

fn failure(error: &ZipError) -> Failure {
    match error {
        ZipError::UnsupportedArchive(why) if why.contains("assword") => {
            Failure::new(ReasonCode::Encrypted, "the file is protected with a password")
        }
        error => Failure::new(ReasonCode::Corrupt, format!("the packed file is damaged: {error}")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Write;

    use super::*;

    /// Packs files, for the tests of the formats that are packed.
    pub(in crate::parse) fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn a_bomb_is_refused_by_its_directory() {
        let bytes = pack(&[("a", &vec![0; 20 << 20])]);
        assert_eq!(Container::open(&bytes, &Limits::default()).err().unwrap().reason, ReasonCode::Bomb);
        let small = pack(&[("a", &vec![0; 1 << 20])]);
        assert!(Container::open(&small, &Limits::default()).is_ok());
    }

    #[test]
    fn a_directory_that_lies_is_found_out_while_unpacking() {
        let mut bytes = pack(&[("a", &vec![0; 20 << 20])]);
        let real = (20u32 << 20).to_le_bytes();
        let places: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == real).collect();
        for at in places {
            bytes[at..at + 4].copy_from_slice(&9u32.to_le_bytes());
        }
        let mut container = Container::open(&bytes, &Limits::default()).unwrap();
        assert!(matches!(container.read("a").unwrap_err().reason, ReasonCode::Bomb | ReasonCode::Corrupt));
    }

    #[test]
    fn too_many_entries_are_refused() {
        let limits = Limits { max_packed_entries: 1, ..Limits::default() };
        let bytes = pack(&[("a", b""), ("b", b"")]);
        assert_eq!(Container::open(&bytes, &limits).err().unwrap().reason, ReasonCode::TooLarge);
    }
}
