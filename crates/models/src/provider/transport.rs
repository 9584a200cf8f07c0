//! The HTTP client that rig speaks through.
//!
//! It adds what rig leaves out: time-outs, a bound on the size of an answer, errors without the
//! address (which holds the key with some providers), what an answer tells beside the vectors, and their order: rig
//! ignores `data[].index`, so an answer in another order would give texts each other's vectors.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use rig_core::http_client::{
    Error, HttpClientExt, LazyBody, MultipartForm, Request, Response, Result, StreamingResponse,
};
use serde::Deserialize;

use super::seen;

/// The largest answer: 4,096 vectors of 4,096 values in 15 characters each.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The largest error answer that is kept.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// A client of the provider's API.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transport {
    client: reqwest::Client,
}

impl Transport {
    pub(crate) fn new(timeout: Duration, connect_timeout: Duration) -> std::result::Result<Self, String> {
        // Whoever installed a provider first has decided; both are the same ring.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.without_url().to_string())?;
        Ok(Self { client })
    }
}

impl HttpClientExt for Transport {
    fn send<T, U>(
        &self,
        request: Request<T>,
    ) -> impl Future<Output = Result<Response<LazyBody<U>>>> + Send + 'static
    where
        T: Into<Bytes> + Send,
        U: From<Bytes> + Send + 'static,
    {
        let (parts, body) = request.into_parts();
        let request =
            self.client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body.into());
        async move {
            let response = request.send().await.map_err(hide_address)?;
            let (status, headers) = (response.status(), response.headers().clone());
            seen::headers(&headers);
            if !status.is_success() {
                let body = read(response, MAX_ERROR_BYTES).await?;
                let body = String::from_utf8_lossy(&body).into_owned();
                return Err(Error::InvalidStatusCodeWithDetails { status, body, headers: Box::new(headers) });
            }
            let body = in_order(read(response, MAX_ANSWER_BYTES).await?)?;
            let body: LazyBody<U> = Box::pin(async move { Ok(U::from(body)) });
            let mut response = Response::new(body);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            Ok(response)
        }
    }

    fn send_multipart<U>(
        &self,
        request: Request<MultipartForm>,
    ) -> impl Future<Output = Result<Response<LazyBody<U>>>> + Send + 'static
    where
        U: From<Bytes> + Send + 'static,
    {
        self.client.send_multipart(request)
    }

    async fn send_streaming<T>(&self, request: Request<T>) -> Result<StreamingResponse>
    where
        T: Into<Bytes> + Send,
    {
        self.client.send_streaming(request).await
    }
}

fn hide_address(error: reqwest::Error) -> Error {
    Error::Instance(Box::new(error.without_url()))
}

async fn read(response: reqwest::Response, limit: usize) -> Result<Bytes> {
    let mut body = Vec::new();
    let mut parts = response.bytes_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(hide_address)?;
        if body.len() + part.len() > limit {
            return Err(Error::Instance(Box::new(TooLarge)));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.into())
}

/// What an answer tells beside the vectors.
#[derive(Deserialize)]
struct Told {
    /// OpenAI-compatible servers: the order.
    data: Option<Vec<Item>>,
    /// Cohere: the tokens.
    meta: Option<Meta>,
    /// Ollama: the tokens.
    prompt_eval_count: Option<u64>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
}

#[derive(Deserialize)]
struct Meta {
    billed_units: Option<Billed>,
}

#[derive(Deserialize)]
struct Billed {
    input_tokens: Option<f64>,
}

impl Told {
    fn tokens(&self) -> Option<u64> {
        let billed = self.meta.as_ref().and_then(|meta| meta.billed_units.as_ref()?.input_tokens);
        self.prompt_eval_count.or(billed.map(|tokens| tokens as u64))
    }
}

/// The answer with `data` sorted by `index`. An answer of another form is left as it is.
fn in_order(body: Bytes) -> Result<Bytes> {
    let Ok(told) = serde_json::from_slice::<Told>(&body) else {
        return Ok(body);
    };
    seen::tokens(told.tokens());
    let Some(data) =
        told.data.filter(|data| data.iter().enumerate().any(|(place, item)| item.index != place))
    else {
        return Ok(body);
    };
    let mut places: Vec<usize> = data.iter().map(|item| item.index).collect();
    places.sort_unstable();
    if places.iter().enumerate().any(|(place, index)| place != *index) {
        return Err(Error::Instance(Box::new(Unordered)));
    }
    let unreadable = |error: serde_json::Error| Error::Instance(Box::new(error));
    let mut answer: serde_json::Value = serde_json::from_slice(&body).map_err(unreadable)?;
    if let Some(data) = answer["data"].as_array_mut() {
        data.sort_by_key(|item| item["index"].as_u64());
    }
    Ok(serde_json::to_vec(&answer).map_err(unreadable)?.into())
}

/// An answer whose indices are not those of the texts.
#[derive(Debug, thiserror::Error)]
#[error("the indices of the vectors are not those of the texts")]
pub(crate) struct Unordered;

/// An answer over the limit.
#[derive(Debug, thiserror::Error)]
#[error("the answer is too large")]
pub(crate) struct TooLarge;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn vectors_stand_in_the_order_of_their_indices() {
        let body = r#"{"data":[{"index":1,"embedding":[2.0]},{"index":0,"embedding":[1.0]}],"model":"m"}"#;
        let sorted: serde_json::Value = serde_json::from_slice(&in_order(body.into()).unwrap()).unwrap();
        assert_eq!(sorted["data"][0]["embedding"][0], 1.0);
        assert_eq!(sorted["data"][1]["embedding"][0], 2.0);
        assert_eq!(sorted["model"], "m");
    }

    #[test]
    fn an_ordered_or_unknown_answer_is_left_alone() {
        for body in [r#"{"data":[{"index":0,"embedding":[1.0]}]}"#, r#"{"embeddings":[[1.0]]}"#, "<html>"] {
            assert_eq!(in_order(body.into()).unwrap(), body.as_bytes());
        }
    }

    #[test]
    fn an_index_twice_is_refused() {
        let body = r#"{"data":[{"index":1,"embedding":[2.0]},{"index":1,"embedding":[1.0]}]}"#;
        assert!(in_order(body.into()).is_err());
    }
}
