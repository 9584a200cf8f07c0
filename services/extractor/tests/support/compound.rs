//! Compound files, the container of Outlook's messages (MS-CFB), as small as they can be: each stream in sectors of its
//! own, except those that are told to share them.

const SECTOR: usize = 512;
const END: u32 = 0xFFFF_FFFE;
const NONE: u32 = 0xFFFF_FFFF;

/// A stream, or a folder of several.
pub(crate) enum Entry {
    Stream(String, Vec<u8>),
    /// In the sectors of another stream with the same bytes.
    Shared(String, Vec<u8>),
    Storage(String, Vec<Entry>),
}

/// A message with this subject, body and attachments; each is a file with its name, or a message inside of it.
pub(crate) fn message(subject: &str, body: &str, attachments: Vec<Vec<Entry>>) -> Vec<Entry> {
    let mut entries = vec![text("0037", subject), text("1000", body), text("0C1A", "Ana Reis")];
    entries.extend(attachments.into_iter().enumerate().map(|(number, attachment)| {
        Entry::Storage(format!("__attach_version1.0_#{number:08X}"), attachment)
    }));
    entries.push(Entry::Stream("__properties_version1.0".to_owned(), vec![0; 32]));
    entries
}

/// A file that is attached. Those with the same bytes share their sectors.
pub(crate) fn attached_file(name: &str, bytes: &[u8]) -> Vec<Entry> {
    vec![text("3707", name), Entry::Shared("__substg1.0_37010102".to_owned(), bytes.to_vec())]
}

/// A message that is attached.
pub(crate) fn attached_message(name: &str, message: Vec<Entry>) -> Vec<Entry> {
    vec![text("3707", name), Entry::Storage("__substg1.0_3701000D".to_owned(), message)]
}

fn text(property: &str, text: &str) -> Entry {
    let bytes = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    Entry::Stream(format!("__substg1.0_{property}001F"), bytes)
}

/// The file.
pub(crate) fn file(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.directory.push(directory_entry("Root Entry", 5, NONE, END, 0));
    let first = writer.level(entries);
    set(&mut writer.directory[0], 0x4C, first);
    let directory = writer.directory.concat();
    let directory = writer.store(&directory);
    // The table of sectors stands behind them; it has an entry for its own sectors too.
    let data = writer.next.len();
    let tables = (1..).find(|tables| data + tables <= tables * SECTOR / 4).unwrap_or(1);
    let table_at = u32::try_from(data).unwrap_or(NONE);
    writer.next.resize(data + tables, 0xFFFF_FFFD);
    writer.next.resize(tables * SECTOR / 4, NONE);
    let mut header = vec![0; SECTOR];
    header[..8].copy_from_slice(&[0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1]);
    header[0x18..0x22].copy_from_slice(&[0x3E, 0, 3, 0, 0xFE, 0xFF, 9, 0, 6, 0]);
    for (at, value) in [
        (0x2C, u32::try_from(tables).unwrap_or(NONE)),
        (0x30, directory),
        (0x38, 4096),
        (0x3C, END),
        (0x44, END),
    ] {
        set(&mut header, at, value);
    }
    for table in 0..109 {
        let at = u32::try_from(table).unwrap_or(NONE);
        set(&mut header, 0x4C + table * 4, if table < tables { table_at + at } else { NONE });
    }
    let table = writer.next.iter().flat_map(|next| next.to_le_bytes());
    header.into_iter().chain(writer.sectors).chain(table).collect()
}

#[derive(Default)]
struct Writer {
    sectors: Vec<u8>,
    /// What follows each sector.
    next: Vec<u32>,
    directory: Vec<Vec<u8>>,
    shared: Vec<(Vec<u8>, u32)>,
}

impl Writer {
    /// Writes the entries of a folder, each the right sibling of the one before. Answers the first.
    fn level(&mut self, entries: &[Entry]) -> u32 {
        let mut first = NONE;
        let mut before: Option<usize> = None;
        for entry in entries {
            let id = self.directory.len();
            let number = u32::try_from(id).unwrap_or(NONE);
            match entry {
                Entry::Stream(name, bytes) => {
                    let sector = self.store(bytes);
                    self.directory.push(directory_entry(name, 2, NONE, sector, bytes.len()));
                }
                Entry::Shared(name, bytes) => {
                    let sector = self.store_once(bytes);
                    self.directory.push(directory_entry(name, 2, NONE, sector, bytes.len()));
                }
                Entry::Storage(name, inside) => {
                    self.directory.push(directory_entry(name, 1, NONE, 0, 0));
                    let child = self.level(inside);
                    set(&mut self.directory[id], 0x4C, child);
                }
            }
            match before {
                Some(before) => set(&mut self.directory[before], 0x48, number),
                None => first = number,
            }
            before = Some(id);
        }
        first
    }

    /// Puts bytes into sectors, and answers the first.
    fn store(&mut self, bytes: &[u8]) -> u32 {
        if bytes.is_empty() {
            return END;
        }
        let first = u32::try_from(self.next.len()).unwrap_or(NONE);
        self.sectors.extend(bytes);
        self.sectors.resize(self.sectors.len().next_multiple_of(SECTOR), 0);
        let count = u32::try_from(bytes.len().div_ceil(SECTOR)).unwrap_or(NONE);
        self.next.extend((1..count).map(|n| first + n));
        self.next.push(END);
        first
    }

    fn store_once(&mut self, bytes: &[u8]) -> u32 {
        if let Some((_, sector)) = self.shared.iter().find(|(known, _)| known == bytes) {
            return *sector;
        }
        let sector = self.store(bytes);
        self.shared.push((bytes.to_vec(), sector));
        sector
    }
}

fn directory_entry(name: &str, kind: u8, child: u32, sector: u32, size: usize) -> Vec<u8> {
    let mut entry = vec![0; 128];
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    entry[..name.len()].copy_from_slice(&name);
    entry[0x40] = u8::try_from(name.len() + 2).unwrap_or(u8::MAX);
    entry[0x42] = kind;
    entry[0x43] = 1;
    for (at, value) in [
        (0x44, NONE),
        (0x48, NONE),
        (0x4C, child),
        (0x74, sector),
        (0x78, u32::try_from(size).unwrap_or(NONE)),
    ] {
        set(&mut entry, at, value);
    }
    entry
}

fn set(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
