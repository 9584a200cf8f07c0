//! What the child that unpacks says to its parent over its standard output: frames of a tag, a length (32
//! bits, little endian) and a payload. It reads the archive from its standard input, which is a file.

use serde::{Deserialize, Serialize};

use crate::http::settings::MAX_EXTERNAL_ID;

/// The argument that makes the binary a child that unpacks. [`Settings`] in JSON follow it.
pub const SUBCOMMAND: &str = "unpack-child";

/// The most bytes of a file in one frame.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// The longest frame of JSON.
pub(super) const MAX_JSON_BYTES: usize = 16 << 10;
/// The most of a name that is sent: its end, where the file's own name is. A path that can be an external id fits whole, in
/// characters of four bytes and with `./` before it.
pub(super) const MAX_NAME_BYTES: usize = 4 * MAX_EXTERNAL_ID + "./".len();

// A control character has six bytes in JSON.
const _: () = assert!(6 * MAX_NAME_BYTES + 256 <= MAX_JSON_BYTES);

/// How files are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    Zip,
    Tar,
    TarGz,
    TarZst,
}

/// What a child is told at its start. Nothing secret: arguments can be seen by others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The process that must be the child's parent.
    pub(super) parent: u32,
    /// The most memory the child may map.
    pub(super) memory_bytes: u64,
    /// The most CPU time.
    pub(super) cpu_seconds: u64,
    pub(super) format: Format,
    pub(super) limits: Limits,
}

/// What an archive may hold.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Entries of any kind.
    pub(crate) max_entries: u64,
    /// Bytes of a file.
    pub(crate) max_file_bytes: u64,
    /// Bytes of everything together.
    pub(crate) max_unpacked_bytes: u64,
}

/// A file that begins, or an entry that is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Its place in the archive, from 1.
    pub(crate) number: u64,
    /// Its path in the archive, or the end of it. What is no UTF-8 is replaced.
    pub(crate) name: String,
    /// Whether that is its path, of which nothing was replaced or cut off.
    pub(crate) is_whole: bool,
    /// Why it is left out.
    pub(crate) skipped: Option<Skipped>,
}

/// Why an entry is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Skipped {
    /// A symbolic link.
    Symlink,
    /// A hard link.
    HardLink,
    /// A device, a pipe, or a kind that is not known.
    Special,
    /// What macOS and Windows add: `__MACOSX`, `._*`, `.DS_Store`, `Thumbs.db`.
    SystemFile,
}

/// Why a file, or the rest of the archive, cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wrong {
    /// It is protected with a password.
    Encrypted,
    /// It is compressed in a way that is not known here.
    Compression,
    /// Its bytes are not what they should be.
    Damaged,
    /// It ends too early.
    CutOff,
    /// Something stands behind its end.
    MoreBehind,
    /// It is a file with holes, in a form that the library does not know.
    Sparse,
    /// It is larger than a file may be.
    TooLarge,
    /// It is no archive of the format.
    Unreadable,
    /// Two files have the same name, so which one is meant is not certain.
    DuplicateNames,
    /// There are too many entries.
    TooManyEntries,
    /// It unpacks to far more than its size, or than is taken.
    Bomb,
}

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// The child is confined; the first frame.
    Ready,
    /// An [`Entry`] in JSON.
    Entry,
    /// Bytes of the file that begun.
    Bytes,
    /// The file is whole.
    End,
    /// The file is not to be had: [`Wrong`] in JSON.
    Refused,
    /// The rest of the archive is not to be had: [`Wrong`] in JSON. The last frame.
    Failed,
    /// The archive is at its end. The last frame.
    Done,
}

impl Tag {
    const ALL: [(Tag, u8); 7] = [
        (Tag::Ready, b'Y'),
        (Tag::Entry, b'E'),
        (Tag::Bytes, b'B'),
        (Tag::End, b'.'),
        (Tag::Refused, b'R'),
        (Tag::Failed, b'F'),
        (Tag::Done, b'D'),
    ];

    pub(super) fn byte(self) -> u8 {
        Self::ALL.iter().find(|(tag, _)| *tag == self).map_or(0, |(_, byte)| *byte)
    }

    pub(super) fn of(byte: u8) -> Option<Tag> {
        Self::ALL.iter().find(|(_, known)| *known == byte).map(|(tag, _)| *tag)
    }
}
