//! Pictures of text and the files that hold them, made from nothing but the text.

use std::sync::OnceLock;

use pdfium_render::prelude::*;

/// A picture in shades of grey, a byte a pixel.
#[derive(Clone)]
pub(crate) struct Gray {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

/// What stands on a page of a PDF.
pub(crate) enum Content {
    /// Nothing.
    Blank,
    /// A line of text.
    Text(&'static str),
    /// Operators of a page.
    Stream(String),
    /// A picture that covers it.
    Scan(Gray),
    /// Forms in forms in forms: more text than anybody can wait for.
    Endless,
}

/// The lines as a picture, as a scanner would give it.
pub(crate) fn drawn(lines: &[&str]) -> Gray {
    static LIBRARY: OnceLock<Pdfium> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let path = riacho_local::Runtime::find().pdfium_path().unwrap();
        Pdfium::new(Pdfium::bind_to_library(path).unwrap())
    });
    let shown = |(line, at): (&&str, u16)| format!("BT /A 16 Tf 30 {} Td ({line}) Tj ET\n", 180 - 24 * at);
    let content: String = lines.iter().zip(1..).map(shown).collect();
    let bytes = pdf(&[Content::Stream(content)]);
    let document = library.load_pdf_from_byte_slice(&bytes, None).unwrap();
    let page = document.pages().get(0).unwrap();
    // 216 pixels to an inch.
    let config = PdfRenderConfig::new()
        .set_format(PdfBitmapFormat::Gray)
        .set_reverse_byte_order(false)
        .set_target_size(1200, 600);
    let bitmap = page.render_with_config(&config).unwrap();
    Gray { width: 1200, height: 600, pixels: bitmap.as_raw_bytes() }
}

/// A BMP with a palette of greys.
pub(crate) fn bmp(picture: &Gray) -> Vec<u8> {
    let data = 54 + 1024;
    let mut bytes = b"BM".to_vec();
    let size = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
    bytes.extend([size(data + picture.pixels.len()), size(0), size(data), size(40)].concat());
    bytes.extend([size(picture.width), size(picture.height)].concat());
    bytes.extend([1, 0, 8, 0]);
    bytes.extend([size(0), size(picture.pixels.len()), size(8504), size(8504), size(256), size(0)].concat());
    bytes.extend((0..=255u8).flat_map(|grey| [grey, grey, grey, 0]));
    // Its rows stand from the bottom to the top.
    bytes.extend(picture.pixels.chunks(picture.width).rev().flatten());
    bytes
}

/// A TIFF with several pictures.
pub(crate) fn tiff(pictures: &[Gray]) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
    for (i, picture) in pictures.iter().enumerate() {
        let (tags, start) = (8u16, bytes.len());
        let pixels = start + 2 + usize::from(tags) * 12 + 4;
        let (width, height, count) = (picture.width, picture.height, picture.pixels.len());
        bytes.extend(tags.to_le_bytes());
        // Width, height, bits, compression, photometry, offset, rows, bytes.
        let values = [
            (256u16, width),
            (257, height),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, pixels),
            (278, height),
            (279, count),
        ];
        for (tag, value) in values {
            bytes.extend(tag.to_le_bytes());
            bytes.extend([4, 0, 1, 0, 0, 0]);
            bytes.extend(u32::try_from(value).unwrap().to_le_bytes());
        }
        let next = if i + 1 < pictures.len() { pixels + count } else { 0 };
        bytes.extend(u32::try_from(next).unwrap().to_le_bytes());
        bytes.extend(&picture.pixels);
    }
    bytes
}

/// A PDF with these pages.
pub(crate) fn pdf(pages: &[Content]) -> Vec<u8> {
    let stream = |dictionary: &str, data: &[u8]| -> Vec<u8> {
        let head = format!("<< {dictionary} /Length {} >>\nstream\n", data.len());
        [head.as_bytes(), data, b"\nendstream"].concat()
    };
    let mut objects: Vec<Vec<u8>> = vec![
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        Vec::new(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_vec(),
    ];
    // Six forms, each of which draws the one before fifty times.
    let draw = "/F Do ".repeat(50);
    for depth in 0..6 {
        let form = "/Type /XObject /Subtype /Form /BBox [0 0 400 200]";
        let (inner, data) = match depth {
            0 => ("/Font << /A 3 0 R >>".to_owned(), "BT /A 12 Tf 40 100 Td (again) Tj ET"),
            depth => (format!("/XObject << /F {} 0 R >>", 3 + depth), draw.as_str()),
        };
        objects.push(stream(&format!("{form} /Resources << {inner} >>"), data.as_bytes()));
    }
    let mut kids = Vec::new();
    for page in pages {
        let (resources, data) = match page {
            Content::Blank => (String::new(), String::new()),
            Content::Text(text) => {
                ("/Font << /A 3 0 R >>".to_owned(), format!("BT /A 12 Tf 40 100 Td ({text}) Tj ET"))
            }
            Content::Stream(operators) => ("/Font << /A 3 0 R >>".to_owned(), operators.clone()),
            Content::Scan(picture) => {
                let form = "/Type /XObject /Subtype /Image /ColorSpace /DeviceGray /BitsPerComponent 8";
                let dictionary = format!("{form} /Width {} /Height {}", picture.width, picture.height);
                objects.push(stream(&dictionary, &picture.pixels));
                (format!("/XObject << /I {} 0 R >>", objects.len()), "400 0 0 200 0 0 cm /I Do".to_owned())
            }
            Content::Endless => ("/XObject << /F 9 0 R >>".to_owned(), draw.clone()),
        };
        objects.push(stream("", data.as_bytes()));
        let contents = objects.len();
        objects.push(
            format!("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200] /Resources << {resources} >> /Contents {contents} 0 R >>")
                .into_bytes(),
        );
        kids.push(format!("{} 0 R", objects.len()));
    }
    objects[1] = format!("<< /Type /Pages /Count {} /Kids [{}] >>", kids.len(), kids.join(" ")).into_bytes();
    written(&objects)
}

/// The objects with the table of their places.
fn written(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"%PDF-1.4\n".to_vec();
    let mut table = String::new();
    for (number, object) in (1..).zip(objects) {
        table.push_str(&format!("{:010} 00000 n \n", bytes.len()));
        bytes.extend(format!("{number} 0 obj\n").into_bytes());
        bytes.extend(object);
        bytes.extend(b"\nendobj\n");
    }
    let (start, count) = (bytes.len(), objects.len() + 1);
    let trailer = format!(
        "xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    );
    bytes.extend(trailer.into_bytes());
    bytes
}
