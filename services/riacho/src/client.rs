//! The client of the HTTP interface, for `ingest`, `search` and `status`.

use std::{
    fs::File,
    io::{self, Seek},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use riacho_domain::{DocumentId, State};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::{io::AsyncReadExt, time::Instant};
use tokio_util::io::ReaderStream;

use crate::{
    cli::Server,
    data_dir::DataDir,
    exit::{Failure, Kind},
};

/// The address of a deployment that nobody names.
const DEFAULT_URL: &str = "http://127.0.0.1:8000";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may stay silent, or take nothing of what is sent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a body the system may have taken and not sent yet, in bytes, and how much of that it sends in a second at the
/// least. A network that stands still shows sooner: see [`NETWORK_TIMEOUT`].
const BUFFERED: (u64, u64) = (8 << 20, 16 << 10);
/// How long the other end may leave unconfirmed what was sent.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a body is sent at a time.
const PIECE_BYTES: usize = 64 << 10;
/// How often a request is sent again that the server asked to send later.
const MAX_PUT_OFF: u32 = 30;
/// The longest pause that a server's Retry-After is obeyed for.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// A deployment and a key for it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// For uploads, which may take long as long as they go on.
    uploads: reqwest::Client,
    url: String,
    key: String,
}

/// The bytes of an upload.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// An open file and its size, read while it is sent.
    File(Arc<File>, u64),
}

/// One upload.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) filename: String,
    pub(crate) content: Content,
    pub(crate) external_id: Option<String>,
    /// Sent again with the same one, an upload is answered as the first time.
    pub(crate) idempotency_key: Option<String>,
}

/// Where uploads go.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) collection: Option<String>,
    pub(crate) lane: riacho_domain::Lane,
}

/// The answer to an upload.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) id: DocumentId,
    pub(crate) version: u32,
    pub(crate) state: State,
    #[serde(default)]
    pub(crate) duplicate: bool,
}

/// A document's state.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DocumentStatus {
    pub(crate) version: u32,
    pub(crate) state: State,
    pub(crate) error: Option<Reason>,
}

/// A collection.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Collection {
    pub(crate) id: uuid::Uuid,
    pub(crate) name: String,
}

#[derive(Debug, Deserialize)]
struct Collections {
    collections: Vec<Collection>,
}

/// A page of documents.
#[derive(Debug, Deserialize)]
pub(crate) struct Documents {
    pub(crate) documents: Vec<Listed>,
    pub(crate) next_cursor: Option<String>,
}

/// A document as a list shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: DocumentId,
    pub(crate) version: u32,
    pub(crate) state: State,
}

/// Why a document failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reason {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No answer.
    #[error("cannot reach {url}: {reason}; is `riacho up` running?")]
    Unreachable { url: String, reason: String },
    /// A refusal, with its problem.
    #[error("{problem}")]
    Refused { status: StatusCode, problem: Problem, retry_after: Option<Duration> },
    /// The file to upload cannot be read.
    #[error("cannot read: {0}")]
    File(#[from] io::Error),
    /// An answer that is not what was asked for.
    #[error("unexpected answer: {0}")]
    Answer(String),
}

/// An `application/problem+json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    detail: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.detail.as_deref().filter(|detail| !detail.is_empty()) {
            Some(detail) => write!(f, "{}: {detail}", self.title),
            None => f.write_str(&self.title),
        }
    }
}

impl Problem {
    /// The last part of the type, as a code.
    pub(crate) fn code(&self) -> &str {
        self.kind.rsplit(['/', ':']).next().filter(|code| !code.is_empty()).unwrap_or("refused")
    }
}

impl Error {
    /// The error as the end of a command.
    pub(crate) fn into_failure(self) -> anyhow::Error {
        let kind = if matches!(self, Error::Unreachable { .. }) { Kind::Unreachable } else { Kind::Failed };
        Failure::error(kind, self.to_string())
    }
}

type Result<T> = std::result::Result<T, Error>;

impl Client {
    /// The deployment that the flags name, or the one whose data directory it is.
    pub(crate) fn new(server: &Server, data_dir: &DataDir) -> anyhow::Result<Client> {
        let running = data_dir.running();
        let url =
            server.url.clone().or_else(|| running.map(|r| r.url)).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let key = server.api_key.clone().or_else(|| DataDir::read(&data_dir.api_key()));
        let key = key.ok_or_else(|| {
            let file = data_dir.api_key();
            let text = format!(
                "no API key: give --api-key or RIACHO_API_KEY, or --data-dir ({} is not there)",
                file.display()
            );
            Failure::error(Kind::Usage, text)
        })?;
        Client::at(&url, &key)
    }

    pub(crate) fn at(url: &str, key: &str) -> anyhow::Result<Client> {
        let parsed = url::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if parsed.is_none() {
            return Err(Failure::error(Kind::Usage, format!("{url} is not an http or https address")));
        }
        let builder = || {
            let agent = concat!("riacho/", env!("CARGO_PKG_VERSION"));
            reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).user_agent(agent)
        };
        let http = builder().read_timeout(READ_TIMEOUT).build().context("cannot make an HTTP client")?;
        let uploads = builder().tcp_user_timeout(NETWORK_TIMEOUT).tcp_keepalive(NETWORK_TIMEOUT / 4);
        let uploads = uploads.build().context("cannot make an HTTP client")?;
        Ok(Client { http, uploads, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// `POST /api/v1/documents`
    pub(crate) async fn upload(&self, upload: &Upload, target: &Target) -> Result<Accepted> {
        let mut query = vec![("filename", upload.filename.clone()), ("lane", target.lane.to_string())];
        query.extend(target.collection.clone().map(|name| ("collection", name)));
        query.extend(upload.external_id.clone().map(|id| ("external_id", id)));
        self.send_file(Method::POST, "/api/v1/documents", &query, upload).await
    }

    /// The same, put off as long as the server asks for it.
    pub(crate) async fn upload_put_off(&self, upload: &Upload, target: &Target) -> Result<Accepted> {
        for _ in 0..MAX_PUT_OFF {
            match self.upload(upload, target).await {
                Err(Error::Refused { status, retry_after: Some(pause), .. }) if is_put_off(status) => {
                    tokio::time::sleep(pause.min(MAX_PAUSE)).await;
                }
                answer => return answer,
            }
        }
        self.upload(upload, target).await
    }

    /// `PUT /api/v1/documents/{id}/content`: a new version.
    pub(crate) async fn replace(&self, id: DocumentId, upload: &Upload, target: &Target) -> Result<Accepted> {
        let query = [("filename", upload.filename.clone()), ("lane", target.lane.to_string())];
        let path = format!("/api/v1/documents/{id}/content");
        self.send_file(Method::PUT, &path, &query, upload).await
    }

    async fn send_file(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        upload: &Upload,
    ) -> Result<Accepted> {
        let sent = Sent::new();
        let (body, size) = body_of(&upload.content, &sent)?;
        let mut request = self.request_by(&self.uploads, method, path, query)?;
        if let Some(key) = &upload.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(body);
        let answer = async { self.answer(self.send(request).await?).await };
        tokio::select! {
            answer = answer => answer.map_err(|error| sent.broken().map_or(error, Error::File)),
            patience = sent.stalls(size) => Err(Error::Unreachable {
                url: self.url.clone(),
                reason: format!("nothing went on for {} s", patience.as_secs()),
            }),
        }
    }

    /// `DELETE /api/v1/documents/{id}`. One that is gone already is as good.
    pub(crate) async fn delete(&self, id: DocumentId) -> Result<()> {
        let request = self.request(Method::DELETE, &format!("/api/v1/documents/{id}"), &[])?;
        let response = self.send(request).await?;
        match response.status() {
            status if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            _ => self.answer::<Value>(response).await.map(drop),
        }
    }

    /// `GET /api/v1/collections`
    pub(crate) async fn collections(&self) -> Result<Vec<Collection>> {
        Ok(self.get::<Collections>("/api/v1/collections").await?.collections)
    }

    /// `POST /api/v1/collections`
    pub(crate) async fn create_collection(&self, name: &str) -> Result<Collection> {
        let body = serde_json::json!({ "name": name });
        let request = self.request(Method::POST, "/api/v1/collections", &[])?.json(&body);
        let response = self.send(request).await?;
        self.answer(response).await
    }

    /// `GET /api/v1/documents`: a page of a collection's documents.
    pub(crate) async fn documents(&self, collection: &str, cursor: Option<&str>) -> Result<Documents> {
        let mut query = vec![("collection", collection.to_owned()), ("limit", "200".to_owned())];
        query.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        let response = self.send(self.request(Method::GET, "/api/v1/documents", &query)?).await?;
        self.answer(response).await
    }

    /// `GET /api/v1/documents/{id}/status`
    pub(crate) async fn status(&self, id: DocumentId) -> Result<DocumentStatus> {
        self.get(&format!("/api/v1/documents/{id}/status")).await
    }

    /// `POST /api/v1/search`
    pub(crate) async fn search(&self, body: &Value) -> Result<Value> {
        let request = self.request(Method::POST, "/api/v1/search", &[])?.json(body);
        let response = self.send(request).await?;
        self.answer(response).await
    }

    /// Any GET.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(self.request(Method::GET, path, &[])?).await?;
        self.answer(response).await
    }

    /// The body of a GET whatever its status, such as that of `/health`.
    pub(crate) async fn get_any_status(&self, path: &str) -> Result<Value> {
        let response = self.send(self.request(Method::GET, path, &[])?).await?;
        response.json().await.map_err(|error| Error::Answer(error.to_string()))
    }

    /// Whether `/readyz` answers 200.
    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(request) = self.request(Method::GET, "/readyz", &[]) else { return false };
        self.send(request).await.is_ok_and(|response| response.status().is_success())
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, String)]) -> Result<RequestBuilder> {
        self.request_by(&self.http, method, path, query)
    }

    fn request_by(
        &self,
        http: &reqwest::Client,
        method: Method,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<RequestBuilder> {
        let mut url =
            url::Url::parse(&format!("{}{path}", self.url)).map_err(|e| Error::Answer(e.to_string()))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(http.request(method, url).bearer_auth(&self.key))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request
            .send()
            .await
            .map_err(|error| Error::Unreachable { url: self.url.clone(), reason: root_cause(&error) })
    }

    async fn answer<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let (status, retry_after) = (response.status(), retry_after(&response));
        let body = response
            .bytes()
            .await
            .map_err(|error| Error::Unreachable { url: self.url.clone(), reason: root_cause(&error) })?;
        if !status.is_success() {
            let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
            if problem.title.is_empty() {
                problem.title = status.to_string();
            }
            return Err(Error::Refused { status, problem, retry_after });
        }
        serde_json::from_slice(&body).map_err(|error| Error::Answer(error.to_string()))
    }
}

/// When something of an upload was sent last, and why its file could not be read on.
#[derive(Clone)]
struct Sent(Arc<Mutex<(Instant, Option<io::Error>)>>);

impl Sent {
    fn new() -> Sent {
        Sent(Arc::new(Mutex::new((Instant::now(), None))))
    }

    fn note(&self, piece: &io::Result<Bytes>) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.0 = Instant::now();
        if let Err(error) = piece {
            sent.1 = Some(io::Error::new(error.kind(), error.to_string()));
        }
    }

    fn broken(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take()
    }

    /// Waits until nothing more was sent of a body of `size` bytes for too long, the answer to the last of it included, and
    /// says how long that was.
    async fn stalls(&self, size: u64) -> Duration {
        let patience = READ_TIMEOUT + Duration::from_secs(size.min(BUFFERED.0) / BUFFERED.1);
        loop {
            let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).0;
            if last.elapsed() >= patience {
                return patience;
            }
            tokio::time::sleep_until(last + patience).await;
        }
    }
}

/// A body that notes when it is sent, and its size.
fn body_of(content: &Content, sent: &Sent) -> Result<(reqwest::Body, u64)> {
    let sent = sent.clone();
    match content {
        Content::Bytes(bytes) => {
            let pieces: Vec<Bytes> = (0..bytes.len())
                .step_by(PIECE_BYTES)
                .map(|at| bytes.slice(at..bytes.len().min(at + PIECE_BYTES)))
                .collect();
            let pieces = stream::iter(pieces).map(Ok::<_, io::Error>).inspect(move |piece| sent.note(piece));
            Ok((reqwest::Body::wrap_stream(pieces), bytes.len() as u64))
        }
        Content::File(file, size) => {
            let mut file = file.try_clone()?;
            file.seek(io::SeekFrom::Start(0))?;
            let file = tokio::fs::File::from_std(file).take(*size);
            let pieces = whole(ReaderStream::with_capacity(file, PIECE_BYTES), *size);
            let pieces = pieces.inspect(move |piece| sent.note(piece));
            Ok((reqwest::Body::wrap_stream(pieces), *size))
        }
    }
}

/// A stream whose end is an error where it comes too early: a file became shorter while it was sent.
fn whole(pieces: impl Stream<Item = io::Result<Bytes>>, size: u64) -> impl Stream<Item = io::Result<Bytes>> {
    pieces.map(Some).chain(stream::iter([None])).scan(size, |left, piece| {
        let next = match piece {
            Some(Ok(piece)) => {
                *left = left.saturating_sub(piece.len() as u64);
                Some(Ok(piece))
            }
            Some(Err(error)) => Some(Err(error)),
            None if *left > 0 => Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof))),
            None => None,
        };
        std::future::ready(next)
    })
}

const fn is_put_off(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).max(Duration::from_millis(100)))
}

/// The innermost reason; the outer ones repeat the address.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
