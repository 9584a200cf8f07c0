//! Documents as lines of JSON (NDJSON), accepted while they arrive.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::{Bytes, BytesMut};

use super::{
    run::{Body, Item, Run, Stop},
    shapes::Place,
};
use crate::{
    Config,
    http::{
        body::Incoming,
        extract::parse_json,
        names::clean_filename,
        problem::Problem,
        settings::{BulkContent, BulkLine, Settings},
    },
};

/// Base64 with or without the filling at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines until the body ends.
pub(super) async fn read(mut run: Run, body: Incoming) -> Result<(), Stop> {
    let config = run.app().config().clone();
    let mut lines = Lines::new(body, &config);
    let mut items = 0;
    while let Some((number, line)) = run.unless_over(lines.next()).await?? {
        let place = Place::Line(number);
        items += 1;
        if items > config.bulk.max_items {
            let most = config.bulk.max_items;
            return Err(Problem::field(
                "body",
                format!("has more than {most} documents; send several requests"),
            )
            .into());
        }
        let (name, read) = match line {
            Ok(line) => item(place, &line, &config),
            Err(problem) => (None, Err(problem)),
        };
        match read {
            Err(problem) => run.refuse(place, name, problem).await?,
            Ok(item) => {
                let paid = match run.is_first_of(&item.settings) {
                    Ok(()) => run.pay().await?,
                    Err(problem) => Err(problem),
                };
                match paid {
                    Ok(paid) => run.take(item, paid).await?,
                    Err(problem) => run.refuse(place, name, problem).await?,
                }
            }
        }
    }
    Ok(())
}

/// The document of a line, and its name as far as it is known.
fn item(place: Place, line: &[u8], config: &Config) -> (Option<String>, Result<Item, Problem>) {
    if std::str::from_utf8(line).is_err() {
        return (None, Err(Problem::bad_request("the line is not UTF-8")));
    }
    let asked = match parse_json::<BulkLine>(line) {
        Ok(asked) => asked,
        Err(problem) => return (None, Err(problem)),
    };
    let name = clean_filename(&asked.filename);
    let item = content(place, name.clone(), asked, config);
    (Some(name), item)
}

fn content(place: Place, name: String, asked: BulkLine, config: &Config) -> Result<Item, Problem> {
    if asked.filename.is_empty() {
        return Err(Problem::field("filename", "is empty"));
    }
    let content_type = asked.content_type.clone();
    let (content, settings) = Settings::from_line(asked, config)?;
    settings.chunking(config)?;
    let bytes = match content {
        BulkContent::Text(text) => Bytes::from(text),
        BulkContent::Base64(text) => BASE64
            .decode(text)
            .map_err(|error| Problem::field("base64", format!("is not base64: {error}")))?
            .into(),
    };
    // Before anything is paid for it.
    if bytes.is_empty() {
        return Err(Problem::empty());
    }
    if bytes.len() as u64 > config.max_upload_bytes {
        return Err(Problem::too_large("file", config.max_upload_bytes));
    }
    Ok(Item { place, name, content_type, settings, body: Body::Here(bytes) })
}

/// A body cut at its line ends. Memory is bounded by the longest line.
struct Lines {
    body: Incoming,
    waiting: BytesMut,
    /// Up to here there is no line end.
    looked: usize,
    number: u64,
    /// The rest of a line that is too long is thrown away.
    too_long: bool,
    ended: bool,
    left: u64,
    max_bytes: u64,
    max_line: usize,
}

/// A line with something in it and its number.
type Numbered = (u64, Result<Bytes, Problem>);

impl Lines {
    fn new(body: Incoming, config: &Config) -> Self {
        Self {
            body,
            waiting: BytesMut::new(),
            looked: 0,
            number: 0,
            too_long: false,
            ended: false,
            left: config.bulk.max_bytes,
            max_bytes: config.bulk.max_bytes,
            max_line: config.bulk.max_line_bytes,
        }
    }

    async fn next(&mut self) -> Result<Option<Numbered>, Problem> {
        loop {
            if let Some(line) = self.cut() {
                self.number += 1;
                if std::mem::take(&mut self.too_long) || line.len() > self.max_line {
                    return Ok(Some((self.number, Err(Problem::too_large("line", self.max_line as u64)))));
                }
                let line = if self.number == 1 { without_mark(line) } else { line };
                // Some systems end lines with a carriage return too.
                if !line.trim_ascii().is_empty() {
                    return Ok(Some((self.number, Ok(line))));
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            if self.waiting.len() > self.max_line {
                self.too_long = true;
                self.waiting.clear();
                self.looked = 0;
            }
            match self.body.piece().await {
                Some(piece) => {
                    let piece = piece?;
                    let too_large = || Problem::too_large("body", self.max_bytes);
                    self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(too_large)?;
                    self.waiting.extend_from_slice(&piece);
                }
                None => self.ended = true,
            }
        }
    }

    /// The next line, if it is there to its end. The last one may lack that.
    fn cut(&mut self) -> Option<Bytes> {
        let found = self.waiting[self.looked..].iter().position(|byte| *byte == b'\n');
        match found {
            Some(at) => {
                let mut line = self.waiting.split_to(self.looked + at + 1);
                line.truncate(line.len() - 1);
                self.looked = 0;
                Some(line.freeze())
            }
            None if self.ended && (!self.waiting.is_empty() || self.too_long) => {
                self.looked = 0;
                Some(self.waiting.split().freeze())
            }
            None => {
                self.looked = self.waiting.len();
                None
            }
        }
    }
}

fn without_mark(line: Bytes) -> Bytes {
    if line.starts_with(BYTE_ORDER_MARK) { line.slice(BYTE_ORDER_MARK.len()..) } else { line }
}
