//! Cuts a batch of encoded texts into parts that one thread computes at a time.

/// The most tokens of a part, which bound what a thread needs: about 8 MB for a model of 384 dimensions, 20 MB for
/// 1,024. More leaves the processor's caches and is slower. A longer text stands alone.
const PART_TOKENS: usize = 512;

/// A text as token ids.
#[derive(Debug)]
pub(crate) struct Text {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) ids: Vec<u32>,
}

/// Texts of similar length.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) texts: Vec<Text>,
}

/// Sorts the texts by length, the longest first, and cuts them into parts. Where there is less to do than fills a part
/// for each thread, the parts are smaller, so that no thread is left out.
pub(crate) fn cut(texts: Vec<Vec<u32>>, threads: usize) -> Vec<Part> {
    let total: usize = texts.iter().map(Vec::len).sum();
    let limit = total.div_ceil(threads.max(1)).min(PART_TOKENS);
    let mut sorted: Vec<Text> =
        texts.into_iter().enumerate().map(|(index, ids)| Text { index, ids }).collect();
    sorted.sort_by_key(|text| std::cmp::Reverse(text.ids.len()));
    let mut parts: Vec<Part> = Vec::new();
    let mut filled = limit;
    for text in sorted {
        let is_full = filled + text.ids.len() > limit;
        if is_full || parts.is_empty() {
            parts.push(Part::default());
            filled = 0;
        }
        filled += text.ids.len();
        if let Some(last) = parts.last_mut() {
            last.texts.push(text);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<u32>> {
        lengths.into_iter().map(|length| vec![7; length]).collect()
    }

    fn tokens(part: &Part) -> usize {
        part.texts.iter().map(|text| text.ids.len()).sum()
    }

    #[test]
    fn parts_are_bounded_sorted_by_length_and_lose_no_text() {
        let lengths: Vec<usize> = (0..1000).map(|n| n * 37 % 256).collect();
        let parts = cut(texts(lengths.clone()), 2);
        let mut seen = vec![false; lengths.len()];
        let mut last = usize::MAX;
        for text in parts.iter().flat_map(|part| &part.texts) {
            assert!(text.ids.len() <= last);
            last = text.ids.len();
            assert_eq!(lengths[text.index], text.ids.len());
            assert!(!std::mem::replace(&mut seen[text.index], true));
        }
        assert!(seen.iter().all(|seen| *seen));
        assert!(parts.iter().all(|part| tokens(part) <= PART_TOKENS));
        assert!(parts.len() <= lengths.iter().sum::<usize>() / (PART_TOKENS - 256) + 1);
    }

    #[test]
    fn a_text_longer_than_a_part_stands_alone() {
        let parts = cut(texts([3, 5000, 4]), 1);
        assert_eq!(parts.iter().map(tokens).collect::<Vec<_>>(), [5000, 7]);
    }

    #[test]
    fn a_small_batch_is_shared_by_all_threads() {
        let parts = cut(texts([100, 100, 100, 100]), 2);
        assert_eq!(parts.iter().map(tokens).collect::<Vec<_>>(), [200, 200]);
        assert_eq!(cut(texts([100]), 8).len(), 1);
        assert!(cut(Vec::new(), 8).is_empty());
        // Texts without a token still have their place.
        assert_eq!(cut(texts([0, 0]), 2).iter().map(|part| part.texts.len()).sum::<usize>(), 2);
    }
}
