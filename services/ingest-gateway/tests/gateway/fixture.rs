//! A gateway on a free port, in a deployment of its own.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response, StatusCode, multipart};
use riacho_domain::{DocumentId, RunId};
use riacho_ingest_gateway::Config;
use riacho_models::{Kind, Model, Models};
use riacho_objects::{Key, Objects};
use riacho_proto::v1;
use riacho_store::{IndexItem, Limits, Role, Seal};
use riacho_testkit::Deployment;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running gateway. It stops when it is dropped.
pub(crate) struct Gateway {
    pub(crate) deployment: Deployment,
    pub(crate) objects: Objects,
    pub(crate) base: String,
    http: reqwest::Client,
    stop: Option<DropGuard>,
    task: JoinHandle<()>,
}

/// What a test changes before the gateway starts.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) config: Config,
    pub(crate) objects: Option<Objects>,
    pub(crate) model: Option<Arc<dyn Model>>,
    pub(crate) limits: Limits,
    /// Networks that webhooks and fetches may go to although they are not public.
    pub(crate) outbound_allow: Vec<String>,
}

/// Another gateway of the same deployment. It stops when it is dropped.
pub(crate) struct Replica {
    pub(crate) base: String,
    _stop: DropGuard,
}

impl Gateway {
    pub(crate) async fn start() -> Gateway {
        Self::with(Change::default()).await
    }

    pub(crate) async fn with_config(config: Config) -> Gateway {
        Self::with(Change { config, ..Change::default() }).await
    }

    pub(crate) async fn with(change: Change) -> Gateway {
        let deployment = Deployment::start().await.expect("deployment");
        let mut core = deployment.core().expect("runtime");
        core.limits = change.limits;
        core.http.outbound_allow = change.outbound_allow;
        let mut resources = deployment.resources(Role::Service).expect("resources");
        if let Some(objects) = change.objects {
            resources.objects = objects;
        }
        let objects = resources.objects.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        let models = Models::only(change.model.unwrap_or_else(model));
        let stop = CancellationToken::new();
        let (config, stopped) = (change.config, stop.clone());
        let task = tokio::spawn(async move {
            riacho_ingest_gateway::serve(config, &core, resources, models, listener, stopped).await;
        });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("client");
        Gateway { deployment, objects, base, http, stop: Some(stop.drop_guard()), task }
    }

    /// Starts another gateway of the same deployment.
    pub(crate) async fn replica(&self, limits: Limits) -> Replica {
        let mut core = self.deployment.core().expect("runtime");
        core.limits = limits;
        let resources = self.deployment.resources(Role::Service).expect("resources");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        let (stop, config) = (CancellationToken::new(), Config::default());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let models = Models::only(model());
            riacho_ingest_gateway::serve(config, &core, resources, models, listener, stopped).await;
        });
        Replica { base, _stop: stop.drop_guard() }
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        self.stop.take();
        (&mut self.task).await.expect("the gateway ends well");
    }

    /// A request with the deployment's key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.deployment.key)
    }

    /// A request without a key.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        self.http.request(method, url)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// A form with a file.
    pub(crate) fn form(filename: &str, content: impl Into<Vec<u8>>) -> multipart::Form {
        let part = multipart::Part::bytes(content.into()).file_name(filename.to_owned());
        multipart::Form::new().part("file", part)
    }

    /// Sends a form and expects 202.
    pub(crate) async fn upload(&self, form: multipart::Form) -> Value {
        accepted(self.post("/api/v1/documents").multipart(form)).await
    }

    /// Does the pipeline's work on a document: its text, cut at blank lines into chunks on pages 1, 2, ..
    pub(crate) async fn publish(&self, id: &str, text: &str) {
        self.publish_without(id, text, None, Vec::new()).await;
    }

    /// The same, for a document of so many pages, some of which have no text.
    pub(crate) async fn publish_without(
        &self,
        id: &str,
        text: &str,
        pages: Option<u32>,
        missing: Vec<riacho_store::MissingPages>,
    ) {
        let store = &self.deployment.store;
        let tenant = &self.deployment.tenant;
        let document: DocumentId = id.parse().expect("id");
        let released = self.deployment.sql(&format!(
            "SELECT version, release_id FROM document_versions WHERE document_id = '{document}' ORDER BY version DESC LIMIT 1"
        ));
        let version = released[0][0].as_ref().and_then(|v| v.parse().ok()).expect("version");
        let release = released[0][1].as_ref().and_then(|r| r.parse().ok()).expect("release");
        let release = riacho_store::Release { tenant: tenant.clone(), document, version, release };
        store.begin_extraction(&release).await.expect("begin").expect("current");
        let run = RunId::new();
        self.objects
            .put(&Key::text(tenant, document, version, run), Bytes::from(text.to_owned()))
            .await
            .expect("text");
        let chunks = chunks(text).await;
        let seal = Seal {
            run,
            manifest: vec![1],
            chunk_total: u32::try_from(chunks.len()).expect("few"),
            detected_type: "text/plain".into(),
            encoding: Some("UTF-8".into()),
            encoding_confidence: Some("certain"),
            missing,
            language: "en".into(),
            pages,
        };
        store.seal(&release, &seal).await.expect("seal");
        let item = IndexItem { release, run, space: self.deployment.space.id, language: "en".into(), chunks };
        let answers = store.index(&[item]).await.expect("index");
        assert!(matches!(answers[0], riacho_store::IndexAnswer::Written { ready: true }), "{answers:?}");
    }
}

/// The local model, loaded once for all tests.
pub(crate) fn model() -> Arc<dyn Model> {
    static MODEL: OnceLock<Arc<dyn Model>> = OnceLock::new();
    let load = || {
        let mut config = riacho_models::Config::default();
        config.local.directory = Some(riacho_testkit::local_model_directory().expect("runtime"));
        riacho_models::load(&config).expect("model")
    };
    MODEL.get_or_init(load).clone()
}

async fn chunks(text: &str) -> Vec<v1::EmbeddedChunk> {
    let mut chunks = Vec::new();
    let mut byte_start = 0;
    for (ordinal, part) in text.split("\n\n").enumerate() {
        let char_start = text[..byte_start].chars().count() as u64;
        let page = u32::try_from(ordinal).expect("few") + 1;
        let vectors = model().embed(vec![part.to_owned()], Kind::Passage).await.expect("vector").vectors;
        let chunk = v1::Chunk {
            ordinal: page - 1,
            text: part.to_owned(),
            byte_start: byte_start as u64,
            byte_end: (byte_start + part.len()) as u64,
            char_start,
            char_end: char_start + part.chars().count() as u64,
            page_first: page,
            page_last: page,
            heading_path: vec!["Handbook".into()],
            token_count: 10,
            content_hash: Bytes::copy_from_slice(&riacho_domain::content_hash("", &[], "", part)),
            table_header: String::new(),
        };
        chunks.push(v1::EmbeddedChunk {
            chunk: Some(chunk),
            vector_f16: riacho_models::to_f16_le(&vectors[0]).into(),
        });
        byte_start += part.len() + 2;
    }
    chunks
}

/// Sends a request that is expected to be accepted.
pub(crate) async fn accepted(request: RequestBuilder) -> Value {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let body: Value = response.json().await.expect("JSON");
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body
}

/// Sends a request and expects JSON with a status.
pub(crate) async fn json(request: RequestBuilder, expected: u16) -> Value {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    assert_eq!(status, expected, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Sends a request and expects a problem with a status and a code.
pub(crate) async fn problem(request: RequestBuilder, status: u16, code: &str) -> Value {
    is_problem(request.send().await.expect("an answer"), status, code).await
}

/// Checks that an answer is a problem with a status and a code.
pub(crate) async fn is_problem(response: Response, status: u16, code: &str) -> Value {
    let actual = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|v| v.to_str().unwrap_or_default().to_owned());
    let text = response.text().await.expect("a body");
    assert_eq!((actual, kind.as_deref()), (status, Some("application/problem+json")), "{text}");
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["status"], status, "{body}");
    assert_eq!(body["type"], format!("urn:riacho:problem:{code}"));
    for field in ["title", "detail"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {body}");
    }
    body
}

pub(crate) fn id(body: &Value) -> String {
    body["id"].as_str().unwrap_or_else(|| panic!("no id in {body}")).to_owned()
}
