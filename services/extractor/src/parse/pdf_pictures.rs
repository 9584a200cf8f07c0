//! Pages of a PDF that are pictures: which they are, and how they are drawn for recognition.

use pdfium_render::prelude::{self as pdfium, PdfPageObjectCommon as _, PdfPageObjectsCommon as _};

use super::{Outside, Rendering, pdf_layout::Page, recognized};
use crate::{extracted::Failure, wire::Picture};

/// A page with as many characters has its text, whatever pictures stand behind it.
const FEW_CHARS: usize = 64;
/// A picture that covers this much of a page is the page.
const MOST_OF_PAGE: f32 = 0.4;
/// A page whose darkest pixel is lighter than this is blank.
const INK: u8 = 200;
/// Pixels to an inch at which places on a page are given.
const POINTS: f32 = 72.0;

/// Recognition of the pages of one document.
pub(super) struct Pictures<'a> {
    rendering: Option<&'a Rendering>,
    /// Why no further page is asked for.
    given_up: Option<Failure>,
}

/// What is known of a page that has next to no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing stands on it but the text.
    Plain,
    /// A drawing, perhaps letters as shapes.
    Drawn,
    /// Pictures cover most of it.
    Picture,
}

impl<'a> Pictures<'a> {
    pub(super) fn new(rendering: Option<&'a Rendering>) -> Self {
        Self { rendering, given_up: None }
    }

    /// The text of a page: the recognised one, where it is a picture that has more text than is printed on it.
    ///
    /// # Errors
    ///
    /// Why the words of a page that is a picture are not known.
    pub(super) fn read(
        &mut self,
        page: &pdfium::PdfPage<'_>,
        printed: Page,
        outside: &mut dyn Outside,
    ) -> Result<Page, Failure> {
        let chars = printed.chars();
        if chars >= FEW_CHARS {
            return Ok(printed);
        }
        let look = look(page);
        if look == Look::Plain || look == Look::Drawn && chars > 0 {
            return Ok(printed);
        }
        match self.recognized(page, look, outside) {
            Ok(Some(recognized)) if recognized.chars() > chars => Ok(recognized),
            // What is printed is better than nothing.
            Err(_) if chars > 0 => Ok(printed),
            Ok(_) => Ok(printed),
            Err(failure) => Err(failure),
        }
    }

    fn recognized(
        &mut self,
        page: &pdfium::PdfPage<'_>,
        look: Look,
        outside: &mut dyn Outside,
    ) -> Result<Option<Page>, Failure> {
        let Some(rendering) = self.rendering else {
            // A drawing is no loss that anybody would miss.
            return if look == Look::Picture { Err(off()) } else { Ok(None) };
        };
        if let Some(failure) = &self.given_up {
            return Err(failure.clone());
        }
        let Some((picture, pixels)) = draw(page, rendering)? else { return Ok(None) };
        match outside.words(picture, &pixels) {
            Ok(table) => Ok(Some(recognized::page(&table))),
            Err(unread) => {
                self.given_up = unread.all.then(|| unread.failure.clone());
                Err(unread.failure)
            }
        }
    }
}

fn off() -> Failure {
    Failure::new(
        riacho_domain::ReasonCode::NeedsOcr,
        "the pages are pictures, and recognition of text is off",
    )
}

/// Looks at what stands on a page.
fn look(page: &pdfium::PdfPage<'_>) -> Look {
    let area = page.width().value * page.height().value;
    let mut look = Look::Plain;
    let mut covered = 0.0;
    for object in page.objects().iter() {
        match object.object_type() {
            pdfium::PdfPageObjectType::Image => {
                covered += object.bounds().map_or(0.0, |b| b.width().value * b.height().value);
            }
            // What is inside of these is not looked at one by one.
            pdfium::PdfPageObjectType::XObjectForm => {
                covered += object.bounds().map_or(0.0, |b| b.width().value * b.height().value);
            }
            pdfium::PdfPageObjectType::Text => continue,
            _ => {}
        }
        look = Look::Drawn;
        if covered >= area * MOST_OF_PAGE {
            return Look::Picture;
        }
    }
    look
}

/// Draws a page in shades of grey; nothing where it is blank.
fn draw(page: &pdfium::PdfPage<'_>, rendering: &Rendering) -> Result<Option<(Picture, Vec<u8>)>, Failure> {
    let (width, height) = (page.width().value, page.height().value);
    let wanted = rendering.dpi as f32 / POINTS;
    // A poster is drawn smaller rather than not at all.
    let most = (rendering.max_pixels as f32 / (width * height).max(1.0)).sqrt();
    let scale = wanted.min(most);
    let pixels = |points: f32| ((points * scale) as i32).max(1);
    let config = pdfium::PdfRenderConfig::new()
        .set_format(pdfium::PdfBitmapFormat::Gray)
        .use_grayscale_rendering(true)
        .set_reverse_byte_order(false)
        .limit_render_image_cache_size(true)
        .set_target_size(pixels(width), pixels(height));
    let failed =
        |_| Failure::new(riacho_domain::ReasonCode::Corrupt, "the page is damaged: it cannot be drawn");
    let bitmap = page.render_with_config(&config).map_err(failed)?;
    let bytes = bitmap.as_raw_bytes();
    if bytes.iter().all(|pixel| *pixel > INK) {
        return Ok(None);
    }
    let size = |value: i32| u32::try_from(value).unwrap_or(0);
    let (width, height) = (size(bitmap.width()), size(bitmap.height()));
    let stride = u32::try_from(bytes.len()).unwrap_or(0).checked_div(height).unwrap_or(0);
    Ok(Some((Picture::Page { width, height, stride, dpi: (scale * POINTS) as u32 }, bytes)))
}
