//! The child process that parses: one document after the other, confined, until its input ends.
//!
//! It is the same binary with the argument [`SUBCOMMAND`](crate::wire::SUBCOMMAND). It has no
//! environment, no file but its standard streams, no network, and limits on memory and CPU time.

mod confine;

use std::{
    io::{self, BufWriter, Read, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use riacho_domain::ReasonCode;

use crate::{
    extracted::{Extracted, Failure},
    parse::{self, Pdfium},
    wire::{MAX_JSON_BYTES, Ready, Request, Settings, Tag},
};

/// Foreign documents nest deeply, and the parsers of some formats recurse.
const STACK_BYTES: usize = 128 << 20;
/// Progress is told this often at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The whole life of a child. Call it first thing in `main`, before any thread is started.
#[must_use]
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reads the last words of a child that does not become ready.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<()> {
    let argument = std::env::args().next_back().unwrap_or_default();
    let settings: Settings = serde_json::from_str(&argument)?;
    confine::limit(&settings).map_err(|error| io::Error::other(format!("limits cannot be set: {error}")))?;
    // Loading a library needs files, so it comes before the last door closes.
    let (pdfium, pdfium_error) = match settings.pdfium_library.as_deref().map(Pdfium::load) {
        Some(Ok(pdfium)) => (Some(pdfium), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    confine::close_doors()
        .map_err(|error| io::Error::other(format!("the filter of system calls cannot be set: {error}")))?;
    // A panic's words may quote the document; the parent learns of it by the answer.
    std::panic::set_hook(Box::new(|_| {}));
    let work = move || serve(&settings, pdfium.as_ref(), &Ready { pdfium_error });
    let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work)?;
    worker.join().map_err(|_| io::Error::other("the parser panicked"))?
}

fn serve(settings: &Settings, pdfium: Option<&Pdfium>, ready: &Ready) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut answers = Answers { out: BufWriter::with_capacity(64 << 10, io::stdout().lock()) };
    answers.ready(ready)?;
    while let Some((request, bytes)) = read_request(&mut input, settings)? {
        let cpu_start = confine::cpu_used();
        confine::allow_cpu(cpu_start + Duration::from_secs(settings.cpu_seconds));
        let mut told = Instant::now();
        let mut known_total = 0;
        let mut progress = |done: u32, total: u32| {
            if total != known_total {
                known_total = total;
                let pages = Duration::from_millis(settings.page_cpu_ms.saturating_mul(u64::from(total)));
                confine::allow_cpu(cpu_start + Duration::from_secs(settings.cpu_seconds) + pages);
            } else if done != total && told.elapsed() < PROGRESS_EVERY {
                return;
            }
            told = Instant::now();
            // A parent that is gone is noticed at the answer.
            let _ = answers.progress(done, total);
        };
        let parse = || parse::parse(bytes, &request.filename, &settings.limits, pdfium, &mut progress);
        match catch_unwind(AssertUnwindSafe(parse)) {
            Ok(Ok(extracted)) => answers.done(&extracted)?,
            Ok(Err(failure)) => answers.failed(&failure)?,
            Err(_) => {
                answers.failed(&Failure::new(ReasonCode::ParserCrashed, "the parser crashed on the file"))?;
                // Nobody knows what a panic left behind.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next request; nothing when the parent has closed the stream.
fn read_request(input: &mut impl Read, settings: &Settings) -> io::Result<Option<(Request, Vec<u8>)>> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_JSON_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut header = vec![0; length as usize];
    input.read_exact(&mut header)?;
    let request: Request = serde_json::from_slice(&header)?;
    let size = usize::try_from(request.size).ok().filter(|_| request.size <= settings.limits.max_file_bytes);
    let mut bytes = vec![0; size.ok_or(io::ErrorKind::InvalidData)?];
    input.read_exact(&mut bytes)?;
    Ok(Some((request, bytes)))
}

struct Answers<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> Answers<W> {
    fn frame(&mut self, tag: Tag, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        self.out.write_all(&[tag.byte()])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(payload)
    }

    fn ready(&mut self, ready: &Ready) -> io::Result<()> {
        self.frame(Tag::Ready, &serde_json::to_vec(ready)?)?;
        self.out.flush()
    }

    fn progress(&mut self, done: u32, total: u32) -> io::Result<()> {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&done.to_le_bytes());
        payload[4..].copy_from_slice(&total.to_le_bytes());
        self.frame(Tag::Progress, &payload)?;
        self.out.flush()
    }

    fn done(&mut self, extracted: &Extracted) -> io::Result<()> {
        self.frame(Tag::Text, extracted.text.as_bytes())?;
        self.frame(Tag::Outline, &serde_json::to_vec(&extracted.outline)?)?;
        self.out.flush()
    }

    fn failed(&mut self, failure: &Failure) -> io::Result<()> {
        self.frame(Tag::Failure, &serde_json::to_vec(failure)?)?;
        self.out.flush()
    }
}
