//! The child's end of the conversation: messages in, frames out.

use std::io::{self, BufWriter, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::wire::{MAX_JSON_BYTES, Tag};

/// The standard streams of a child.
pub(super) struct Streams {
    input: io::StdinLock<'static>,
    out: BufWriter<io::StdoutLock<'static>>,
}

impl Streams {
    pub(super) fn open() -> Self {
        let out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Self { input: io::stdin().lock(), out }
    }

    /// The next header; nothing when the parent has closed the stream.
    pub(super) fn header<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut length = [0; 4];
        match self.input.read_exact(&mut length) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let length = u32::from_le_bytes(length);
        if length > MAX_JSON_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut header = vec![0; length as usize];
        self.input.read_exact(&mut header)?;
        Ok(Some(serde_json::from_slice(&header)?))
    }

    /// The bytes that a header announced.
    pub(super) fn bytes(&mut self, size: u64, most: u64) -> io::Result<Vec<u8>> {
        let size = usize::try_from(size).ok().filter(|_| size <= most).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; size];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes a frame. It leaves with the next flush.
    pub(super) fn frame(&mut self, tag: Tag, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        self.out.write_all(&[tag.byte()])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(payload)
    }

    /// Writes a frame of JSON.
    pub(super) fn json(&mut self, tag: Tag, payload: &impl Serialize) -> io::Result<()> {
        self.frame(tag, &serde_json::to_vec(payload)?)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
