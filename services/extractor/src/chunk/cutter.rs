//! Packs sentences and lines into chunks.

use std::{collections::VecDeque, ops::Range};

use riacho_domain::content_hash;

use super::{
    Chunk, Settings, Tokens,
    blocks::{Block, Blocks, Header, Kind},
    seams::{self, Seam},
    sentences::sentences,
    tables::Table,
    tokens::{joins, words},
};
use crate::extracted::{Extracted, Heading};

/// A run of whitespace longer than this ends a chunk: nobody wants it embedded.
const GAP_BYTES: usize = 1024;
/// A sentence longer than this is not counted as a whole but taken word by word.
const SENTENCE_BYTES: usize = 4096;
/// The longest piece of a word without a break.
const PIECE_BYTES: usize = 64;
/// Behind this part of a chunk it may end. The smaller it is, the sooner the chunks behind an edit are again what they
/// were, and the smaller chunks are on average: about three fifths of the limit.
const FLOOR: usize = 6;
/// The most characters of a heading in a path, and the most headings of a path.
const HEADING_CHARS: usize = 200;
const PATH_DEPTH: usize = 8;

/// The smallest thing that is not cut: a sentence, a line, a word of an endless sentence.
#[derive(Debug, Clone)]
struct Unit {
    range: Range<usize>,
    tokens: usize,
    /// Index of the heading path it stands under.
    path: usize,
    /// The level of the heading whose line it is.
    heading: Option<u8>,
    /// Index of the table below whose header row it stands.
    table: Option<usize>,
    /// It is of the lines that a table begins with, which its first row should not be without.
    leads: bool,
    /// It does not follow the unit before it directly, so a chunk must end before it.
    after_gap: bool,
    /// Its tokens cannot simply be added up.
    inexact: bool,
    /// For the first unit of a block, the tokens of the block.
    block: Option<BlockStart>,
}

impl Unit {
    /// Whether a chunk should not end behind it: what stands above something stays with it.
    fn stays(&self) -> bool {
        self.heading.is_some() || self.leads
    }
}

#[derive(Debug, Clone, Copy)]
struct BlockStart {
    tokens: usize,
    keep_whole: bool,
}

/// Iterates over the chunks of a text.
pub struct Cutter<'a> {
    extracted: &'a Extracted,
    title: &'a str,
    tokens: &'a Tokens,
    max: usize,
    overlap: usize,
    blocks: Blocks<'a>,
    paths: Vec<Vec<String>>,
    tables: Vec<Table>,
    open_headings: Vec<(u8, String)>,
    pending: VecDeque<Unit>,
    /// The end of the last unit that was added to `pending`.
    loaded_to: usize,
    current: Vec<Unit>,
    current_tokens: usize,
    /// How many units of the current chunk the one before it has too.
    repeated: usize,
    /// So many tokens the current chunk has before it may end of its own accord.
    floor: usize,
    /// The best of the places where it may end, so far.
    seam: Option<Seam>,
    ordinal: u32,
    /// A byte offset and the code points before it.
    char_cursor: (usize, usize),
}

impl<'a> Cutter<'a> {
    /// Begins to cut `extracted`. `title` takes part in the content hashes.
    #[must_use]
    pub fn new(extracted: &'a Extracted, title: &'a str, settings: &Settings, tokens: &'a Tokens) -> Self {
        let max = settings.max_tokens.max(1) as usize;
        Self {
            extracted,
            title,
            tokens,
            max,
            overlap: settings.overlap_tokens.min(settings.max_tokens / 2) as usize,
            blocks: Blocks::new(&extracted.text, &extracted.outline),
            paths: vec![Vec::new()],
            tables: Vec::new(),
            open_headings: Vec::new(),
            pending: VecDeque::new(),
            loaded_to: 0,
            current: Vec::new(),
            current_tokens: 0,
            repeated: 0,
            floor: max / FLOOR,
            seam: None,
            ordinal: 0,
            char_cursor: (0, 0),
        }
    }

    fn text(&self, range: &Range<usize>) -> &'a str {
        &self.extracted.text[range.clone()]
    }

    /// Takes the next block apart into pending units; false at the end of the text.
    fn load_block(&mut self) -> bool {
        let Some(block) = self.blocks.next() else { return false };
        if let Kind::Heading(index) = block.kind {
            self.enter(&self.extracted.outline.headings[index]);
        }
        let first = self.pending.len();
        self.split_block(&block);
        let heading = match block.kind {
            Kind::Heading(index) => Some(self.extracted.outline.headings[index].level),
            _ => None,
        };
        let tokens = self.pending.range(first..).map(|unit| unit.tokens).sum();
        for unit in self.pending.range_mut(first..) {
            unit.heading = heading;
        }
        if let Some(unit) = self.pending.get_mut(first) {
            unit.block = Some(BlockStart { tokens, keep_whole: block.kind == Kind::Lines });
        }
        if let Some(header) = &block.header {
            self.enter_table(header, first);
        }
        true
    }

    /// Marks the units of a table, which are the pending ones from `first` on.
    fn enter_table(&mut self, header: &Header, first: usize) {
        let Some(table) = Table::new(&self.extracted.text, header, self.max, self.tokens) else { return };
        let units = self.pending.range_mut(first..);
        let lead =
            units.take_while(|unit| unit.range.start < header.body).map(|unit| unit.tokens).sum::<usize>();
        let leads = table.is_whole() && lead <= self.max / 2;
        for unit in self.pending.range_mut(first..) {
            unit.table = (unit.range.start >= table.row_end).then_some(self.tables.len());
            unit.leads = leads && unit.range.start < header.body;
        }
        self.tables.push(table);
    }

    fn enter(&mut self, heading: &Heading) {
        self.open_headings.retain(|(level, _)| *level < heading.level);
        self.open_headings.truncate(PATH_DEPTH - 1);
        self.open_headings.push((heading.level, heading.title.chars().take(HEADING_CHARS).collect()));
        self.paths.push(self.open_headings.iter().map(|(_, title)| title.clone()).collect());
    }

    fn split_block(&mut self, block: &Block) {
        let text = self.text(&block.range);
        for part in between_gaps(text) {
            let base = block.range.start + part.start;
            let part = &text[part];
            if block.kind == Kind::Paragraph {
                for sentence in sentences(part) {
                    self.push_sentence(base + sentence.start..base + sentence.end);
                }
            } else {
                let mut at = base;
                for line in part.split_inclusive('\n') {
                    self.push_sentence(at..at + line.len());
                    at += line.len();
                }
            }
        }
    }

    /// Adds a sentence or line, in pieces where it is too long for a chunk.
    fn push_sentence(&mut self, range: Range<usize>) {
        let text = self.text(&range);
        if text.trim().is_empty() {
            // A blank line inside code is a part of the line before it.
            if let Some(last) = self.pending.back_mut().filter(|last| last.range.end == range.start) {
                last.range.end = range.end;
                last.tokens += 1;
                last.inexact = true;
                self.loaded_to = range.end;
            }
            return;
        }
        if text.len() <= SENTENCE_BYTES {
            let tokens = self.tokens.count(text);
            if tokens <= self.max {
                let inexact = !self.is_seam(range.start);
                self.push_unit(range, tokens, inexact);
                return;
            }
        }
        for word in words(text) {
            self.push_word(range.start + word.start..range.start + word.end);
        }
    }

    /// Whether no token of the text reaches over `at`.
    fn is_seam(&self, at: usize) -> bool {
        let text = &self.extracted.text;
        at == 0
            || text.as_bytes()[at - 1] == b'\n' && !joins(text[..at].trim_end(), &text[at..])
            || text[at..].starts_with(|c: char| c.is_whitespace() && !matches!(c, '\n' | '\r'))
    }

    /// Adds a word, in pieces where it is long.
    fn push_word(&mut self, range: Range<usize>) {
        let text = self.text(&range);
        let mut piece_bytes = PIECE_BYTES.min(self.max);
        let lead = text.len() - text.trim_start().len();
        let trail = text.len() - text.trim_end().len();
        if text.len() - lead - trail <= piece_bytes {
            let tokens = self.tokens.count(text);
            if tokens <= self.max {
                let inexact = !self.is_seam(range.start);
                self.push_unit(range, tokens, inexact);
                return;
            }
        }
        // A token has at least one byte, so a piece of at most `max` bytes fits. Whitespace around the
        // word that would not fit with it is left to no chunk.
        let fits = |space: usize| space + piece_bytes <= self.max;
        let mut start = if fits(lead) { range.start } else { range.start + lead };
        let word_end = range.end - trail;
        let end_of_all = if fits(lead + trail) { range.end } else { word_end };
        piece_bytes += range.start + lead - start;
        while start < word_end {
            let mut end = self.piece_end(start, piece_bytes, word_end);
            if end == word_end {
                end = end_of_all;
            }
            let tokens = self.tokens.count(self.text(&(start..end)));
            self.push_unit(start..end, tokens, true);
            start = end;
            piece_bytes = PIECE_BYTES.min(self.max);
        }
    }

    /// The end of a piece of about `bytes` bytes from `start`, on a character and at least one long.
    fn piece_end(&self, start: usize, bytes: usize, limit: usize) -> usize {
        let mut end = (start + bytes).min(limit);
        while end > start && !self.extracted.text.is_char_boundary(end) {
            end -= 1;
        }
        let first = self.text(&(start..limit)).chars().next().map_or(1, char::len_utf8);
        end.max(start + first)
    }

    fn push_unit(&mut self, range: Range<usize>, tokens: usize, inexact: bool) {
        let after_gap = self.loaded_to != range.start;
        self.loaded_to = range.end;
        let path = self.paths.len() - 1;
        self.pending.push_back(Unit {
            range,
            tokens,
            path,
            heading: None,
            table: None,
            leads: false,
            after_gap,
            inexact,
            block: None,
        });
    }

    /// Whether the chunk is as full as it gets, or nothing better is to come than what it has. Notes the place
    /// before `unit` where it may end there.
    fn ends_before(&mut self, unit: &Unit) -> bool {
        let is_full = self.current_tokens + unit.tokens > self.max;
        if unit.after_gap {
            self.seam = None;
            return true;
        }
        if self.current.len() <= self.repeated {
            return is_full;
        }
        let is_allowed = self.current.last().is_some_and(|last| !last.stays());
        let overflows = unit.block.filter(|block| self.current_tokens + block.tokens > self.max);
        let is_kept_whole = overflows.is_some_and(|block| block.keep_whole && block.tokens <= self.max);
        if is_allowed && (self.current_tokens >= self.floor || is_kept_whole) {
            self.note_seam(unit);
        }
        let best = self.seam.as_ref();
        // What is left of a block that does not fit has seams that are worse than one before the block.
        let is_settled = overflows.is_some() && best.is_some_and(Seam::is_between_blocks);
        // Small sections share a chunk, as far as half of it.
        let is_section = best.is_some_and(Seam::is_heading) && self.current_tokens >= self.max / 2;
        is_full || is_kept_whole && is_allowed || is_settled || is_section
    }

    fn note_seam(&mut self, unit: &Unit) {
        let kind = match (unit.heading, unit.block) {
            (Some(level), Some(_)) => seams::Kind::Heading(level),
            (None, Some(_)) => seams::Kind::Block,
            (_, None) => seams::Kind::Inside,
        };
        let hash = seams::hash(self.text(&unit.range));
        let seam = Seam::new(self.current.len(), kind, hash);
        self.seam = Some(Seam::better(self.seam, seam));
    }

    fn take(&mut self, unit: Unit) {
        if self.current.is_empty() {
            let context = self.header_for(&unit).map_or(0, |table| table.tokens);
            let first = self.tokens.without_leading_space(self.text(&unit.range), unit.tokens);
            self.current_tokens = context + first;
            self.floor = context + (self.max - context) / FLOOR;
        } else {
            self.current_tokens += unit.tokens;
        }
        self.current.push(unit);
    }

    /// The table whose header row is the context of a chunk that begins with this unit. A row that leaves no room for it has
    /// none.
    fn header_for(&self, first: &Unit) -> Option<&Table> {
        let table = self.tables.get(first.table?)?;
        (table.tokens + first.tokens <= self.max).then_some(table)
    }

    /// The tokens of the header row above the current chunk.
    fn context_tokens(&self) -> usize {
        let table = self.current.first().and_then(|first| self.header_for(first));
        table.map_or(0, |table| table.tokens)
    }

    fn give_back(&mut self) {
        if let Some(unit) = self.current.pop() {
            self.pending.push_front(unit);
        }
    }

    /// Makes a chunk of the current units, less those that are better at the start of the next.
    fn finish(&mut self) -> Chunk {
        let keep = self.repeated + 1;
        let end = self.seam.map_or(self.current.len(), |seam| seam.units);
        while self.current.len() > end {
            self.give_back();
        }
        let are_lead = self.current.iter().skip(self.repeated).all(|unit| unit.leads);
        while !are_lead && self.current.len() > keep && self.current.last().is_some_and(Unit::stays) {
            if self.pending.is_empty() {
                break;
            }
            self.give_back();
        }
        self.seam = None;
        let mut token_count = self.count_current();
        while token_count + self.context_tokens() > self.max && self.current.len() > 1 {
            if self.current.len() > self.repeated + 1 {
                self.give_back();
            } else {
                self.current.remove(0);
                self.repeated -= 1;
            }
            token_count = self.count_current();
        }
        let chunk = self.chunk(token_count);
        self.start_next();
        chunk
    }

    fn slice(&self) -> Range<usize> {
        let start = self.current.first().map_or(0, |unit| unit.range.start);
        let end = self.current.last().map_or(start, |unit| unit.range.end);
        let text = self.text(&(start..end));
        end - text.trim_start().len()..start + text.trim_end().len()
    }

    fn count_current(&self) -> usize {
        if self.current.iter().any(|unit| unit.inexact) {
            return self.tokens.count(self.text(&self.slice()));
        }
        let (Some(first), Some(last)) = (self.current.first(), self.current.last()) else { return 0 };
        let first_tokens = self.tokens.without_leading_space(self.text(&first.range), first.tokens);
        if self.current.len() == 1 {
            return self.tokens.without_trailing_space(self.text(&first.range).trim_start(), first_tokens);
        }
        let middle: usize = self.current[1..self.current.len() - 1].iter().map(|unit| unit.tokens).sum();
        first_tokens + middle + self.tokens.without_trailing_space(self.text(&last.range), last.tokens)
    }

    fn chunk(&mut self, token_count: usize) -> Chunk {
        let bytes = self.slice();
        let text = self.text(&bytes);
        let char_start = self.chars_before(bytes.start);
        let heading_path = self.common_path();
        let table = self.current.first().and_then(|first| self.header_for(first));
        let table_header =
            table.filter(|table| table.tokens + token_count <= self.max).map(|table| table.repeated.clone());
        let header = table_header.as_ref().map_or("", |header| self.text(header));
        let chunk = Chunk {
            ordinal: self.ordinal,
            chars: char_start..char_start + text.chars().count(),
            pages: self.extracted.pages_of(bytes.start, bytes.end),
            token_count: u32::try_from(token_count).unwrap_or(u32::MAX),
            content_hash: content_hash(self.title, &heading_path, header, text),
            heading_path,
            table_header,
            bytes,
        };
        self.ordinal += 1;
        chunk
    }

    /// Code points before a byte offset; offsets come in growing order.
    fn chars_before(&mut self, offset: usize) -> usize {
        let (byte, chars) = self.char_cursor;
        let chars = chars + self.text(&(byte..offset)).chars().count();
        self.char_cursor = (offset, chars);
        chars
    }

    /// The headings that all units of the chunk stand under.
    fn common_path(&self) -> Vec<String> {
        let Some((first, rest)) = self.current.split_first() else { return Vec::new() };
        let path = &self.paths[first.path];
        let mut depth = path.len();
        let mut last = first.path;
        for unit in rest {
            if unit.path != last {
                last = unit.path;
                let same = self.paths[last].iter().zip(path).take_while(|(a, b)| a == b).count();
                depth = depth.min(same);
            }
        }
        path[..depth].to_vec()
    }

    /// Empties the current chunk but for what the next one repeats.
    fn start_next(&mut self) {
        let mut kept = 0;
        let mut from = self.current.len();
        let next_follows = self.pending.front().is_some_and(|next| !next.after_gap && next.heading.is_none());
        while next_follows && from > 1 && kept + self.current[from - 1].tokens <= self.overlap {
            from -= 1;
            kept += self.current[from].tokens;
        }
        self.current.drain(..from);
        self.recount_repeated();
    }

    fn recount_repeated(&mut self) {
        self.repeated = self.current.len();
        self.current_tokens = self.current.iter().map(|unit| unit.tokens).sum();
        if let Some(first) = self.current.first() {
            let trimmed = self.tokens.without_leading_space(self.text(&first.range), first.tokens);
            self.current_tokens = self.current_tokens + trimmed - first.tokens;
        }
        self.current_tokens += self.context_tokens();
        self.floor = self.current_tokens + self.max.saturating_sub(self.current_tokens) / FLOOR;
    }
}

impl Iterator for Cutter<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        loop {
            while self.pending.is_empty() {
                if !self.load_block() {
                    // What is left fits.
                    self.seam = None;
                    return (self.current.len() > self.repeated).then(|| self.finish());
                }
            }
            let unit = self.pending.pop_front()?;
            if self.current.is_empty() || !self.ends_before(&unit) {
                self.take(unit);
                continue;
            }
            self.pending.push_front(unit);
            if self.current.len() > self.repeated {
                return Some(self.finish());
            }
            // Repeated units and nothing new: they leave no room, so they give way.
            self.current.remove(0);
            self.recount_repeated();
        }
    }
}

/// The parts of `text` between long runs of whitespace.
fn between_gaps(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(space) = text[at..].find(char::is_whitespace).map(|i| at + i) {
        let end = text[space..].find(|c: char| !c.is_whitespace()).map_or(text.len(), |i| space + i);
        if end - space > GAP_BYTES {
            parts.push(start..space);
            start = end;
        }
        at = end;
    }
    parts.push(start..text.len());
    parts.retain(|part| !text[part.clone()].trim().is_empty());
    parts
}
