//! Files that are pictures: their words, recognised. A TIFF may hold several, which are its pages.

use riacho_domain::ReasonCode;

use super::{
    Limits, Outside, Parsed, Tools,
    pdf_layout::{self, Page},
    recognized,
};
use crate::{
    extracted::{Failure, Missing},
    wire::Picture,
};

/// Reads the words of a picture file.
pub(super) fn parse(bytes: &[u8], tools: &Tools<'_>, outside: &mut dyn Outside) -> Result<Parsed, Failure> {
    let Some(rendering) = tools.rendering else {
        return Err(Failure::new(
            ReasonCode::NeedsOcr,
            "the file is a picture, and recognition of text is off",
        ));
    };
    let frames = frames(bytes, tools.limits)?;
    let total = u32::try_from(frames.len()).unwrap_or(u32::MAX);
    let mut pages = Vec::new();
    let mut missing: Vec<Missing> = Vec::new();
    let mut given_up: Option<Failure> = None;
    for (frame, pixels) in (0..).zip(frames) {
        outside.progress(frame, total);
        let words = match &given_up {
            Some(failure) => Err(failure.clone()),
            None if pixels > rendering.max_pixels => Err(too_many_pixels(rendering.max_pixels)),
            None => outside.words(Picture::Original { frame }, &[]).map_err(|unread| {
                given_up = unread.all.then(|| unread.failure.clone());
                unread.failure
            }),
        };
        pages.push(words.map_or_else(
            |failure| {
                Missing::add(&mut missing, frame + 1, failure);
                Page::Recognized(Vec::new())
            },
            |table| recognized::page(&table),
        ));
    }
    outside.progress(total, total);
    let mut parsed = pdf_layout::assemble(&pages);
    if parsed.text.is_empty() {
        let empty = || Failure::new(ReasonCode::Empty, "no text was recognised in the picture");
        return Err(Missing::most(&missing).unwrap_or_else(empty));
    }
    if total == 1 {
        parsed.outline.pages.clear();
    }
    parsed.outline.missing = missing;
    Ok(parsed)
}

/// It says the same of all pictures of a file, which are named together.
fn too_many_pixels(most: u64) -> Failure {
    Failure::new(ReasonCode::TooLarge, format!("the picture has more than the {most} pixels that are taken"))
}

/// How many pixels each picture of the file says it has, before anything is decoded.
fn frames(bytes: &[u8], limits: &Limits) -> Result<Vec<u64>, Failure> {
    let frames = match bytes {
        [b'I', b'I', 42, 0, ..] => tiff_frames(bytes, u16::from_le_bytes, u32::from_le_bytes, limits),
        [b'M', b'M', 0, 42, ..] => tiff_frames(bytes, u16::from_be_bytes, u32::from_be_bytes, limits),
        _ => imagesize::blob_size(bytes).ok().map(|size| vec![size.width as u64 * size.height as u64]),
    };
    let damaged = || Failure::new(ReasonCode::Corrupt, "the picture is damaged: it does not say its size");
    let frames = frames.filter(|frames| !frames.is_empty()).ok_or_else(damaged)?;
    if frames.len() > limits.max_pages as usize {
        let message = format!("the file has more than the {} pictures that are taken", limits.max_pages);
        return Err(Failure::new(ReasonCode::TooLarge, message));
    }
    Ok(frames)
}

/// The pictures of a TIFF: a chain of directories, each with the tags 256 (width) and 257 (height).
/// One more than may be taken are followed.
fn tiff_frames(
    bytes: &[u8],
    short: fn([u8; 2]) -> u16,
    long: fn([u8; 4]) -> u32,
    limits: &Limits,
) -> Option<Vec<u64>> {
    let short_at = |at: usize| Some(short(*bytes.get(at..)?.first_chunk()?));
    let long_at = |at: usize| Some(long(*bytes.get(at..)?.first_chunk()?));
    let mut frames = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut directory = long_at(4)? as usize;
    while directory != 0 && seen.insert(directory) && frames.len() <= limits.max_pages as usize {
        // A chain that leads nowhere ends there.
        let Some(entries) = short_at(directory) else { break };
        let (mut width, mut height) = (0, 0);
        for entry in 0..usize::from(entries) {
            let at = directory + 2 + entry * 12;
            let Some((tag, kind)) = short_at(at).zip(short_at(at + 2)) else { break };
            let value = if kind == 3 { short_at(at + 8).map(u32::from) } else { long_at(at + 8) };
            match (tag, value) {
                (256, Some(value)) => width = value,
                (257, Some(value)) => height = value,
                _ => {}
            }
        }
        frames.push(u64::from(width) * u64::from(height));
        directory = long_at(directory + 2 + usize::from(entries) * 12).unwrap_or(0) as usize;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// A TIFF with the directories of pictures of these sizes and no pixels.
    fn tiff(sizes: &[(u16, u16)], last: u32) -> Vec<u8> {
        let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
        for (i, (width, height)) in sizes.iter().enumerate() {
            bytes.extend(2u16.to_le_bytes());
            for (tag, value) in [(256u16, width), (257, height)] {
                bytes.extend(tag.to_le_bytes());
                bytes.extend([3, 0, 1, 0, 0, 0]);
                bytes.extend(value.to_le_bytes());
                bytes.extend([0, 0]);
            }
            let end = u32::try_from(bytes.len() + 4).unwrap();
            bytes.extend(if i + 1 < sizes.len() { end } else { last }.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_pictures_of_a_tiff_are_counted_with_their_sizes() {
        let limits = Limits { max_pages: 3, ..Limits::default() };
        let sizes = |bytes: &[u8]| frames(bytes, &limits).map_err(|failure| failure.reason);
        assert_eq!(sizes(&tiff(&[(10, 20), (3, 4)], 0)), Ok(vec![200, 12]));
        // A chain that leads back, one that leads nowhere, and one that is too long.
        assert_eq!(sizes(&tiff(&[(10, 20), (3, 4)], 8)), Ok(vec![200, 12]));
        assert_eq!(sizes(&tiff(&[(10, 20)], 999_999)), Ok(vec![200]));
        assert_eq!(sizes(&tiff(&[(1, 1); 4], 0)), Err(ReasonCode::TooLarge));
        assert_eq!(sizes(b"II\x2a\0\0\0\0\0"), Err(ReasonCode::Corrupt));
        assert_eq!(sizes(b"II\x2a\0"), Err(ReasonCode::Corrupt));
    }

    /// Words in the pictures that are asked for; none in the others.
    struct Reader<'a>(&'a [&'a str]);

    impl Outside for Reader<'_> {
        fn progress(&mut self, _: u32, _: u32) {}

        fn words(&mut self, picture: Picture, _: &[u8]) -> Result<String, crate::wire::Unread> {
            let Picture::Original { frame } = picture else { panic!("a page") };
            match self.0[frame as usize] {
                "" => Ok(String::new()),
                why if why.starts_with('!') => {
                    let failure = Failure::new(ReasonCode::Corrupt, why);
                    Err(crate::wire::Unread { failure, all: false })
                }
                text => Ok(format!("5\t1\t1\t1\t1\t1\t100\t40\t300\t30\t90\t{text}\n")),
            }
        }
    }

    #[test]
    fn a_tiff_says_why_most_of_its_pictures_have_no_text() {
        let limits = Limits::default();
        let rendering = super::super::Rendering { dpi: 300, max_pixels: 100 };
        let tools = Tools { limits: &limits, pdfium: None, rendering: Some(&rendering), skip: &[] };
        let read = |sizes: &[(u16, u16)], words: &[&str]| parse(&tiff(sizes, 0), &tools, &mut Reader(words));
        // Each has another number of pixels; one of the three has another reason.
        let sizes = [(20, 20), (30, 30), (5, 5)];
        assert_eq!(read(&sizes, &["", "", "!torn"]).unwrap_err().reason, ReasonCode::TooLarge);
        assert_eq!(read(&sizes, &["", "", ""]).unwrap_err().reason, ReasonCode::TooLarge);
        assert_eq!(read(&[(5, 5)], &[""]).unwrap_err().reason, ReasonCode::Empty);
        let parsed = read(&sizes, &["", "", "Level"]).unwrap();
        assert_eq!(parsed.text, "Level");
        assert_eq!(parsed.outline.missing[0].pages, [(1, 2)]);
    }

    #[test]
    fn a_picture_without_a_size_is_damaged() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\0\x80\x08\0\0\0\0";
        assert_eq!(frames(png, &Limits::default()).unwrap(), [256 * 128]);
        let failure = frames(&png[..12], &Limits::default()).unwrap_err();
        assert_eq!(failure.reason, ReasonCode::Corrupt);
    }
}
