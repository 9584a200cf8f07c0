//! Where a chunk may end, and which of these places is taken.
//!
//! A chunk that is filled to the brim ends wherever its beginning puts the limit. Then a word more in one
//! paragraph moves the ends of all chunks behind it, and all of them are embedded anew. So the place is
//! chosen by what stands there: of all seams behind the first sixth of a chunk, the best in kind, and of
//! those of one kind the one whose text has the smallest hash. Two chunks that begin at different places see
//! mostly the same seams, and mostly end at the same one; from there on the cuts are the same again
//! (content-defined chunking, on paragraphs and sentences in place of bytes).

/// The text of a unit that takes part in its hash: of a paragraph its first sentence, and not all of a long one.
/// So an edit in the middle of a paragraph moves no seam.
const HASHED_BYTES: usize = 96;

/// What begins at a seam, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A heading of this level.
    Heading(u8),
    /// A paragraph, a table, a piece of code.
    Block,
    /// A sentence or a line inside of one.
    Inside,
}

/// A place where the current chunk may end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seam {
    /// How many units stand before it.
    pub(super) units: usize,
    kind: Kind,
    hash: u64,
}

impl Seam {
    pub(super) fn new(units: usize, kind: Kind, hash: u64) -> Self {
        Self { units, kind, hash }
    }

    pub(super) fn is_heading(&self) -> bool {
        matches!(self.kind, Kind::Heading(_))
    }

    /// Whether no sentence or line is torn from its paragraph, table or code here.
    pub(super) fn is_between_blocks(&self) -> bool {
        self.kind <= Kind::Block
    }

    /// The better of two; of two that are the same the later, which wastes less of the chunk.
    pub(super) fn better(best: Option<Self>, new: Self) -> Self {
        match best {
            Some(best) if (best.kind, best.hash) < (new.kind, new.hash) => best,
            _ => new,
        }
    }
}

/// The hash of a unit's text, the same in every build: FNV-1a, its bits mixed as in splitmix64.
pub(super) fn hash(text: &str) -> u64 {
    let bytes = text.trim().bytes().take(HASHED_BYTES);
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325, fold);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_goes_before_the_hash_and_the_later_of_two_that_are_the_same_is_taken() {
        let seam = |units, kind, hash| Seam::new(units, kind, hash);
        let best = |seams: &[Seam]| {
            seams.iter().fold(None, |best, seam| Some(Seam::better(best, *seam))).map(|best| best.units)
        };
        assert_eq!(
            best(&[seam(1, Kind::Block, 9), seam(2, Kind::Inside, 1), seam(3, Kind::Block, 5)]),
            Some(3)
        );
        assert_eq!(best(&[seam(1, Kind::Heading(2), 9), seam(2, Kind::Heading(1), 10)]), Some(2));
        assert_eq!(best(&[seam(1, Kind::Block, 4), seam(2, Kind::Block, 4)]), Some(2));
    }

    #[test]
    fn white_space_and_what_follows_the_beginning_do_not_count() {
        let long = "a".repeat(HASHED_BYTES);
        assert_eq!(hash(" one\n"), hash("one"));
        assert_eq!(hash(&long), hash(&format!("{long} and more")));
        assert_ne!(hash("one"), hash("two"));
    }
}
