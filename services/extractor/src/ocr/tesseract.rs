//! The C interface of tesseract and of leptonica, which reads pictures for it, as far as it is needed.
//!
//! Both are loaded at run time: the program starts without them.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::Path,
    ptr,
};

use libloading::Library;
use riacho_domain::ReasonCode;

use crate::{
    extracted::Failure,
    wire::{Picture, RecognizerSettings},
};

/// The name under which the library of tesseract 5 is installed.
const LIBRARY: &str = "libtesseract.so.5";

/// The engine; it is never looked into.
type Engine = *mut c_void;
/// A picture of leptonica's; it is never looked into.
type Pix = *mut c_void;

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ($($argument:ty),*) $(-> $answer:ty)?;)*) => {
        struct Functions { $($(#[$doc])* $name: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)* }

        impl Functions {
            fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are those of tesseract's capi.h and of leptonica's allheaders.h, which
                // have not changed since version 4 and 1.74.
                unsafe { Ok(Self { $($name: *library.get($symbol)?,)* }) }
            }
        }
    };
}

functions! {
    create = b"TessBaseAPICreate\0" () -> Engine;
    init = b"TessBaseAPIInit3\0" (Engine, *const c_char, *const c_char) -> c_int;
    languages = b"TessBaseAPIGetLoadedLanguagesAsVector\0" (Engine) -> *mut *mut c_char;
    delete_texts = b"TessDeleteTextArray\0" (*mut *mut c_char);
    set_pixels = b"TessBaseAPISetImage\0" (Engine, *const u8, c_int, c_int, c_int, c_int);
    set_picture = b"TessBaseAPISetImage2\0" (Engine, Pix);
    set_resolution = b"TessBaseAPISetSourceResolution\0" (Engine, c_int);
    words = b"TessBaseAPIGetTsvText\0" (Engine, c_int) -> *mut c_char;
    delete_text = b"TessDeleteText\0" (*mut c_char);
    clear = b"TessBaseAPIClear\0" (Engine);
    forget = b"TessBaseAPIClearAdaptiveClassifier\0" (Engine);
    // Of leptonica, which the library brings along.
    read = b"pixReadMem\0" (*const u8, usize) -> Pix;
    read_tiff = b"pixReadMemTiff\0" (*const u8, usize, c_int) -> Pix;
    width = b"pixGetWidth\0" (Pix) -> c_int;
    height = b"pixGetHeight\0" (Pix) -> c_int;
    destroy = b"pixDestroy\0" (*mut Pix);
}

/// Tesseract, loaded with its trained data. It reads no file any more.
pub struct Tesseract {
    functions: Functions,
    engine: Engine,
    languages: Vec<String>,
    max_pixels: u64,
    // Its functions are in use as long as anything here is.
    _library: Library,
}

impl Tesseract {
    /// Loads the library and the data of the languages.
    ///
    /// # Errors
    ///
    /// A sentence, when the library or all of the data are missing.
    pub fn load(settings: &RecognizerSettings) -> Result<Self, String> {
        let name = settings.library.as_deref().unwrap_or(Path::new(LIBRARY));
        // SAFETY: loading runs the library's own start-up code and no other.
        let library = unsafe { Library::new(name) }
            .map_err(|error| format!("the tesseract library cannot be loaded: {error}"))?;
        let functions = Functions::of(&library)
            .map_err(|error| format!("the tesseract library is of another version: {error}"))?;
        let named = |language: &&String| {
            !language.is_empty() && language.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/".contains(&b))
        };
        let wanted = settings.languages.iter().filter(named).cloned().collect::<Vec<_>>().join("+");
        let string = |text: &str| CString::new(text).map_err(|error| error.to_string());
        let data = settings.data.as_deref().map(|path| string(&path.to_string_lossy())).transpose()?;
        let languages = string(&wanted)?;
        // SAFETY: both strings live through the call, which copies them.
        let engine = unsafe {
            let engine = (functions.create)();
            let data = data.as_deref().map_or(ptr::null(), CStr::as_ptr);
            if engine.is_null() || (functions.init)(engine, data, languages.as_ptr()) != 0 {
                return Err(format!("tesseract has no trained data of the languages {wanted}"));
            }
            engine
        };
        let (languages, max_pixels) = (loaded(&functions, engine), settings.max_pixels);
        Ok(Self { functions, engine, languages, max_pixels, _library: library })
    }

    /// The languages it looks for.
    #[must_use]
    pub fn languages(&self) -> &[String] {
        &self.languages
    }

    /// The words in a picture, as tesseract's table. `bytes` are the pixels of a page, or the file that
    /// the picture is in.
    ///
    /// # Errors
    ///
    /// A typed reason, when the picture cannot be read.
    pub fn words(&self, picture: Picture, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        match picture {
            Picture::Page { width, height, stride, dpi } => {
                let size = |value: u32| c_int::try_from(value).map_err(|_| refused());
                let (columns, rows, stride_bytes) = (size(width)?, size(height)?, size(stride)?);
                let needed = u64::from(stride) * u64::from(height);
                if stride < width || width == 0 || needed > bytes.len() as u64 {
                    return Err(refused());
                }
                let dpi = size(dpi)?;
                // SAFETY: the pixels are there, as was just checked, and live until `table` is done with them.
                unsafe {
                    (self.functions.set_pixels)(self.engine, bytes.as_ptr(), columns, rows, 1, stride_bytes);
                    (self.functions.set_resolution)(self.engine, dpi);
                }
                self.table()
            }
            Picture::Original { frame } => {
                let read = self.read(bytes, frame)?;
                // SAFETY: the picture lives until `table` is done with it.
                unsafe { (self.functions.set_picture)(self.engine, read.pix) };
                self.table()
            }
        }
    }

    /// Reads a picture of a file.
    fn read(&self, bytes: &[u8], frame: u32) -> Result<Read<'_>, Failure> {
        let frame = c_int::try_from(frame).map_err(|_| refused())?;
        // SAFETY: the bytes live through the call; the picture is a copy.
        let pix = unsafe {
            match frame {
                0 => (self.functions.read)(bytes.as_ptr(), bytes.len()),
                frame => (self.functions.read_tiff)(bytes.as_ptr(), bytes.len(), frame),
            }
        };
        if pix.is_null() {
            return Err(Failure::new(ReasonCode::Corrupt, "the picture is damaged: it cannot be read"));
        }
        let read = Read { functions: &self.functions, pix };
        // SAFETY: the picture is there.
        let (width, height) = unsafe { ((self.functions.width)(pix), (self.functions.height)(pix)) };
        let pixels = u64::from(width.unsigned_abs()) * u64::from(height.unsigned_abs());
        if pixels > self.max_pixels { Err(refused()) } else { Ok(read) }
    }

    /// Recognises what was set, and lets go of it.
    fn table(&self) -> Result<Vec<u8>, Failure> {
        // SAFETY: the text is a string of the library's until it is deleted.
        let words = unsafe {
            let text = (self.functions.words)(self.engine, 0);
            let words = (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec());
            if !text.is_null() {
                (self.functions.delete_text)(text);
            }
            // Nothing of one document is left for the next.
            (self.functions.clear)(self.engine);
            (self.functions.forget)(self.engine);
            words
        };
        words.ok_or_else(|| Failure::new(ReasonCode::Corrupt, "no text can be recognised in the picture"))
    }
}

/// A picture that was read.
struct Read<'a> {
    functions: &'a Functions,
    pix: Pix,
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody else has the picture.
        unsafe { (self.functions.destroy)(&raw mut self.pix) };
    }
}

fn refused() -> Failure {
    Failure::new(ReasonCode::TooLarge, "the picture has more pixels than are taken")
}

fn loaded(functions: &Functions, engine: Engine) -> Vec<String> {
    let mut languages = Vec::new();
    // SAFETY: the list ends with a null pointer, and is deleted after it was copied.
    unsafe {
        let list = (functions.languages)(engine);
        let mut at = list;
        while !at.is_null() && !(*at).is_null() {
            languages.push(CStr::from_ptr(*at).to_string_lossy().into_owned());
            at = at.add(1);
        }
        if !list.is_null() {
            (functions.delete_texts)(list);
        }
    }
    languages
}
