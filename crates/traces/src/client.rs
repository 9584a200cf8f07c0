//! The HTTP client of the exporter: the one that the project has, on the runtime of the process.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

/// The most that is read of an answer.
const MAX_ANSWER: usize = 64 << 10;

/// Sends requests. It is called on the exporter's own thread, which has no runtime.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    runtime: Handle,
    http: reqwest::Client,
    /// Why the last request came to nothing, for the log.
    trouble: Trouble,
}

/// Why the last request came to nothing. It names no header and no body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn is(&self, what: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Client {
    pub(crate) fn new(runtime: Handle, timeout: std::time::Duration) -> Result<Client, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(timeout).redirect(reqwest::redirect::Policy::none());
        Ok(Client { runtime, http: http.build()?, trouble: Trouble::default() })
    }

    pub(crate) fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (http, trouble) = (self.http.clone(), self.trouble.clone());
        let sending = self.runtime.spawn(async move { send(&http, request).await });
        let answer = sending.await.unwrap_or_else(|error| Err(error.into()));
        trouble.is(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answered {}", answer.status())),
            Err(error) => Some(chain(error.as_ref())),
        });
        answer
    }
}

async fn send(http: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let request = reqwest::Request::try_from(request).map_err(reqwest::Error::without_url)?;
    let mut answer = http.execute(request).await.map_err(reqwest::Error::without_url)?;
    let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + part.len() > MAX_ANSWER {
            return Err("the collector's answer is too long".into());
        }
        body.extend_from_slice(&part);
    }
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
