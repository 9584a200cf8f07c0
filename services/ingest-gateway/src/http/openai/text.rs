//! The text of a file as a page: JSON that is written while the text is read, so that no text is held whole, however long it is.

use std::future::ready;

use axum::{
    BoxError,
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};

const BEGIN: &[u8] = br#"{"object":"vector_store.file_content.page","data":[{"type":"text","text":""#;
const END: &[u8] = br#""}],"has_more":false,"next_page":null}"#;

/// A page with a text. One that breaks off leaves the answer without its end, which ends the connection.
pub(super) fn page<E: Into<BoxError> + 'static>(
    text: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let part = |bytes| stream::once(ready(Ok(Bytes::from_static(bytes))));
    let text = text.map_ok(|piece| escaped(&piece)).map_err(Into::into);
    let mut response = Response::new(Body::from_stream(part(BEGIN).chain(text).chain(part(END))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A piece of a text as it stands in a JSON string. What has to be escaped is one byte in UTF-8 and no part of another
/// character, so a piece may begin and end anywhere.
fn escaped(piece: &[u8]) -> Bytes {
    let mut json = Vec::with_capacity(piece.len() + piece.len() / 16);
    for &byte in piece {
        match byte {
            b'"' | b'\\' => json.extend([b'\\', byte]),
            b'\n' => json.extend(br"\n"),
            b'\r' => json.extend(br"\r"),
            b'\t' => json.extend(br"\t"),
            ..b' ' => json.extend(format!("\\u{byte:04x}").bytes()),
            _ => json.push(byte),
        }
    }
    json.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{convert::Infallible, io};

    use futures::FutureExt;
    use serde_json::{Value, json};

    use super::*;

    fn pieces(text: &str, size: usize) -> Vec<Bytes> {
        text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect()
    }

    async fn read(pieces: Vec<Bytes>) -> Value {
        let text = stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
        let body = axum::body::to_bytes(page(text).into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[tokio::test]
    async fn a_text_comes_through_wherever_its_pieces_are_cut() {
        let controls: String = (0..0x21).filter_map(char::from_u32).collect();
        let text = format!("\"a\\b\"\u{7f}\u{2028}é水🐟{controls}\\\\u0041");
        let expected = json!({
            "object": "vector_store.file_content.page", "data": [{"type": "text", "text": text}],
            "has_more": false, "next_page": null,
        });
        for size in 1..10 {
            assert_eq!(read(pieces(&text, size)).await, expected, "pieces of {size} bytes");
        }
        assert_eq!(read(Vec::new()).await["data"][0]["text"], "");
    }

    #[tokio::test]
    async fn a_page_is_written_while_its_text_is_read() {
        let text = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"one"))]).chain(stream::pending());
        let mut body = page(text).into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), BEGIN);
        assert_eq!(body.next().await.unwrap().unwrap(), "one");
        assert!(body.next().now_or_never().is_none(), "the rest is still to come");
    }

    #[tokio::test]
    async fn a_text_that_breaks_off_is_no_page() {
        let text = stream::iter([Ok(Bytes::from_static(b"one")), Err(io::Error::other("gone"))]);
        assert!(axum::body::to_bytes(page(text).into_body(), usize::MAX).await.is_err());
    }
}
