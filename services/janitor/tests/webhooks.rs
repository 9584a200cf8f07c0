//! Webhooks: what is told, signed, again until it comes through, and never inward.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use riacho_domain::ReasonCode;
use riacho_janitor::{Config, Janitor, TaskName, Webhooks};
use riacho_store::{AttemptOutcome, CreatedWebhook, Delivery, DueDelivery, NewWebhook, Role};
use riacho_testkit::Deployment;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::net::TcpListener;

/// What a receiver was sent.
#[derive(Debug, Clone)]
struct Received {
    headers: HeaderMap,
    body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Checks the signature as a receiver does.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let signed =
            format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(signed.as_bytes());
        self.header("webhook-signature") == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// An address that answers a status that the test chooses, and keeps what it was sent.
#[derive(Clone)]
struct Receiver {
    url: String,
    status: Arc<AtomicU16>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Receiver { url, status: Arc::new(AtomicU16::new(200)), received: Arc::default() };
        let app = Router::new().route("/hook", post(Self::take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    async fn take(
        State(receiver): State<Receiver>,
        headers: HeaderMap,
        body: Bytes,
    ) -> (StatusCode, HeaderMap) {
        let body = String::from_utf8(body.to_vec()).unwrap();
        receiver.received.lock().unwrap().push(Received { headers, body });
        let mut headers = HeaderMap::new();
        headers.insert("location", "http://127.0.0.1:9/elsewhere".parse().unwrap());
        (StatusCode::from_u16(receiver.status.load(Ordering::SeqCst)).unwrap(), headers)
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

fn janitor(deployment: &Deployment, webhooks: Webhooks, allow: &[&str]) -> Janitor {
    let mut core = deployment.core().unwrap();
    core.http.outbound_allow = allow.iter().map(|network| (*network).to_owned()).collect();
    let config = Config { webhooks, ..Config::default() };
    Janitor::new(config, &core, &deployment.resources(Role::Janitor).unwrap())
}

/// One that tries again at once, three times in all.
fn eager(deployment: &Deployment) -> Janitor {
    janitor(deployment, Webhooks { retry_seconds: vec![0, 0], ..Webhooks::default() }, &["127.0.0.0/8"])
}

async fn webhook(deployment: &Deployment, url: &str, events: &[&str]) -> CreatedWebhook {
    let new = NewWebhook {
        tenant: deployment.tenant.clone(),
        url: url.to_owned(),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
        description: String::new(),
    };
    deployment.store.create_webhook(&new).await.unwrap()
}

async fn send(janitor: &Janitor) -> BTreeMap<&'static str, u64> {
    let mut counts = janitor.run_task(TaskName::RedeliverWebhooks, false).await.unwrap().counts;
    counts.retain(|_, count| *count > 0);
    counts
}

async fn deliveries(deployment: &Deployment, webhook: &CreatedWebhook) -> Vec<Delivery> {
    let page = deployment.store.deliveries(&deployment.tenant, webhook.webhook.id, None, 100).await;
    page.unwrap().unwrap().items
}

/// A document that failed.
async fn failed(deployment: &Deployment, name: &str) -> riacho_domain::DocumentId {
    let accepted = deployment.accept(name, name.to_owned()).await.unwrap();
    let release = accepted.release.unwrap().release();
    assert!(deployment.store.fail(&release, ReasonCode::Corrupt, "cannot be read").await.unwrap());
    accepted.document
}

#[tokio::test]
async fn what_becomes_of_documents_is_told_signed_to_those_who_want_it() {
    let deployment = Deployment::start().await.unwrap();
    let (all, some) = (Receiver::start().await, Receiver::start().await);
    let events = ["document.ready", "document.failed", "document.deleted", "summary"];
    let of_all = webhook(&deployment, &all.url, &events).await;
    let of_some = webhook(&deployment, &some.url, &["document.deleted"]).await;
    let janitor = eager(&deployment);
    let document = failed(&deployment, "a.txt").await;
    deployment.store.delete_document(&deployment.tenant, document).await.unwrap();
    assert_eq!(janitor.run_task(TaskName::RedeliverWebhooks, true).await.unwrap().counts["due"], 3);
    assert_eq!(send(&janitor).await, BTreeMap::from([("delivered", 3)]));
    assert_eq!(send(&janitor).await, BTreeMap::new(), "once");
    janitor.run_task(TaskName::Summary, false).await.unwrap();
    assert_eq!(send(&janitor).await, BTreeMap::from([("delivered", 1)]));

    let received = all.received();
    let mut told: Vec<_> =
        received.iter().map(|one| one.json()["type"].as_str().unwrap().to_owned()).collect();
    told.sort();
    assert_eq!(told, ["document.deleted", "document.failed", "summary"]);
    for one in &received {
        assert!(one.is_signed_with(of_all.secret.expose()), "{one:?}");
        assert!(!one.is_signed_with(of_some.secret.expose()));
        assert!(one.header("webhook-id").starts_with("msg_"));
        assert_eq!(one.header("content-type"), "application/json");
        let at: i64 = one.header("webhook-timestamp").parse().unwrap();
        assert!((chrono::Utc::now().timestamp() - at).abs() < 300);
        assert!(one.json()["timestamp"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().is_ok());
    }
    let of =
        |kind: &str| received.iter().find(|one| one.json()["type"] == kind).unwrap().json()["data"].clone();
    let data = of("document.failed");
    assert_eq!(
        (&data["document_id"], &data["state"], &data["filename"]),
        (&json!(document.to_string()), &json!("failed"), &json!("a.txt"))
    );
    assert_eq!(data["error"], json!({"code": "corrupt", "message": "cannot be read"}));
    assert_eq!(of("document.deleted")["document_id"], document.to_string());
    assert_eq!(of("summary")["numbers"]["failed"], 1);
    assert_eq!(some.received().len(), 1);
    assert!(some.received()[0].is_signed_with(of_some.secret.expose()));
}

#[tokio::test]
async fn what_does_not_come_through_is_sent_again_with_the_same_id_and_given_up_at_the_end() {
    let deployment = Deployment::start().await.unwrap();
    let receiver = Receiver::start().await;
    let hook = webhook(&deployment, &receiver.url, &["document.failed"]).await;
    let janitor = eager(&deployment);
    receiver.answers(503);
    failed(&deployment, "a.txt").await;
    // All attempts in one run, since it waits for nothing.
    assert_eq!(send(&janitor).await, BTreeMap::from([("failed", 3)]));
    let ids: Vec<_> = receiver.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let given_up = deliveries(&deployment, &hook).await.remove(0);
    assert_eq!((given_up.attempts, given_up.last_status, given_up.next_attempt), (3, Some(503), None));
    assert_eq!(given_up.last_error.as_deref(), Some("it answered 503"));
    assert!(given_up.given_up_at.is_some());
    let seen = deployment.store.webhooks(&deployment.tenant).await.unwrap().remove(0);
    assert!(seen.failing_since.is_some() && seen.disabled_at.is_none());

    // By hand, whatever became of it.
    receiver.answers(204);
    assert!(deployment.store.redeliver(&deployment.tenant, hook.webhook.id, given_up.id).await.unwrap());
    assert_eq!(send(&janitor).await, BTreeMap::from([("delivered", 1)]));
    assert_eq!(receiver.received()[3].header("webhook-id"), ids[0]);
    let delivered = deliveries(&deployment, &hook).await.remove(0);
    assert!(
        delivered.delivered_at.is_some() && delivered.given_up_at.is_none() && delivered.last_error.is_none()
    );
    assert_eq!(deployment.store.webhooks(&deployment.tenant).await.unwrap()[0].failing_since, None);
}

#[tokio::test]
async fn what_is_asked_for_again_is_sent_however_an_earlier_attempt_ends() {
    let deployment = Deployment::start().await.unwrap();
    let hook = webhook(&deployment, "http://127.0.0.1:9/hook", &["document.failed"]).await;
    failed(&deployment, "a.txt").await;
    let store = deployment.resources(Role::Janitor).unwrap().store;
    let due = async || store.due_deliveries(1, 1, &[]).await.unwrap().pop();
    let ended = async |attempt: &DueDelivery| {
        let outcome = AttemptOutcome::Delivered { status: 200 };
        store.attempt_ended(attempt, &outcome, Duration::from_secs(3600)).await.unwrap();
    };
    let again = async |attempt: &DueDelivery| {
        let asked =
            deployment.store.redeliver(&deployment.tenant, hook.webhook.id, attempt.id).await.unwrap();
        assert!(asked);
    };
    let first = due().await.unwrap();
    again(&first).await;
    ended(&first).await;
    let second = due().await.expect("asked for while the first was on its way");
    again(&second).await;
    let third = due().await.expect("by another janitor, while the second is on its way");
    assert_eq!((second.attempt, third.attempt), (1, 1));
    ended(&second).await;
    assert_eq!(deliveries(&deployment, &hook).await[0].delivered_at, None, "the third tells how it ended");
    ended(&third).await;
    assert!(deliveries(&deployment, &hook).await[0].delivered_at.is_some());
    assert_eq!(due().await, None);
}

#[tokio::test]
async fn a_later_attempt_waits_its_time_and_a_redirect_is_not_followed() {
    let deployment = Deployment::start().await.unwrap();
    let receiver = Receiver::start().await;
    let hook = webhook(&deployment, &receiver.url, &["document.failed"]).await;
    let janitor = janitor(&deployment, Webhooks::default(), &["127.0.0.0/8"]);
    receiver.answers(302);
    failed(&deployment, "a.txt").await;
    assert_eq!(send(&janitor).await, BTreeMap::from([("failed", 1)]));
    let waiting = deliveries(&deployment, &hook).await.remove(0);
    assert_eq!((waiting.attempts, waiting.last_status), (1, Some(302)));
    let wait = waiting.next_attempt.unwrap() - waiting.last_attempt.unwrap();
    assert!((5_000..60_000).contains(&wait.num_milliseconds()), "{wait}");
    deployment.sql("UPDATE webhook_deliveries SET next_attempt = now()");
    assert_eq!(send(&janitor).await, BTreeMap::from([("failed", 1)]));
    let waiting = deliveries(&deployment, &hook).await.remove(0);
    let wait = waiting.next_attempt.unwrap() - waiting.last_attempt.unwrap();
    assert!((300_000..360_000).contains(&wait.num_milliseconds()), "{wait}");
}

#[tokio::test]
async fn a_webhook_to_which_nothing_comes_through_for_long_is_disabled_with_the_reason() {
    let deployment = Deployment::start().await.unwrap();
    let receiver = Receiver::start().await;
    let (gone, dead) = (
        webhook(&deployment, &receiver.url, &["document.failed"]).await,
        webhook(&deployment, "http://127.0.0.1:9/nobody", &["document.failed"]).await,
    );
    let is_last = Webhooks { retry_seconds: Vec::new(), ..Webhooks::default() };
    let janitor = janitor(&deployment, is_last, &["127.0.0.0/8"]);
    receiver.answers(410);
    deployment.sql(&format!(
        "UPDATE webhooks SET failing_since = now() - interval '6 days' WHERE id = '{}'",
        dead.webhook.id
    ));
    failed(&deployment, "a.txt").await;
    assert_eq!(send(&janitor).await, BTreeMap::from([("disabled", 2), ("failed", 2)]));
    let reason = async |of: &CreatedWebhook| {
        let all = deployment.store.webhooks(&deployment.tenant).await.unwrap();
        all.into_iter().find(|one| one.id == of.webhook.id).unwrap().disabled_reason
    };
    assert_eq!(reason(&gone).await.as_deref(), Some("the address answered 410 Gone"));
    assert_eq!(reason(&dead).await.as_deref(), Some("nothing came through for 120 hours"));
    failed(&deployment, "b.txt").await;
    assert_eq!(deliveries(&deployment, &gone).await.len(), 1, "it is told nothing more");
    let left = deliveries(&deployment, &gone).await.remove(0);
    assert!(left.given_up_at.is_some() && left.next_attempt.is_none());
    let refused = deployment.store.redeliver(&deployment.tenant, gone.webhook.id, left.id).await.unwrap_err();
    assert_eq!(refused.to_string(), "the webhook is disabled; enable it first");
    receiver.answers(200);
    let enabled =
        deployment.store.enable_webhook(&deployment.tenant, gone.webhook.id).await.unwrap().unwrap();
    assert_eq!((enabled.disabled_at, enabled.failing_since), (None, None));
    failed(&deployment, "c.txt").await;
    assert_eq!(send(&janitor).await, BTreeMap::from([("delivered", 1)]));
}

#[tokio::test]
async fn a_webhook_that_failed_long_ago_is_not_disabled_while_a_delivery_has_attempts_left() {
    let deployment = Deployment::start().await.unwrap();
    let receiver = Receiver::start().await;
    let hook = webhook(&deployment, &receiver.url, &["document.failed"]).await;
    let once_more = Webhooks { retry_seconds: vec![3600], ..Webhooks::default() };
    let janitor = janitor(&deployment, once_more, &["127.0.0.0/8"]);
    // An outage that no delivery outlived, and nothing to send since.
    deployment.sql("UPDATE webhooks SET failing_since = now() - interval '20 days'");
    receiver.answers(503);
    failed(&deployment, "a.txt").await;
    assert_eq!(send(&janitor).await, BTreeMap::from([("failed", 1)]));
    assert!(deliveries(&deployment, &hook).await[0].next_attempt.is_some());
    deployment.sql("UPDATE webhook_deliveries SET next_attempt = now()");
    assert_eq!(send(&janitor).await, BTreeMap::from([("disabled", 1), ("failed", 1)]));
}

#[tokio::test]
async fn deliveries_that_are_on_their_way_when_their_webhook_is_disabled_do_not_come_back_with_it() {
    const ON_THEIR_WAY: usize = 4;
    let deployment = Deployment::start().await.unwrap();
    let hook = webhook(&deployment, "https://example.org/hook", &["document.failed"]).await;
    for n in 0..ON_THEIR_WAY {
        failed(&deployment, &format!("{n}.txt")).await;
    }
    let store = &deployment.janitor;
    let due = store.due_deliveries(10, 10, &[]).await.unwrap();
    assert_eq!(due.len(), ON_THEIR_WAY);
    let again = Some(Duration::from_secs(300));
    let gone = AttemptOutcome::Failed { status: Some(410), error: "it answered 410".to_owned(), again };
    let five_days = Duration::from_secs(5 * 86_400);
    let ended = due.iter().map(|one| store.attempt_ended(one, &gone, five_days));
    let disabled = futures::future::join_all(ended).await.into_iter().map(Result::unwrap);
    assert_eq!(disabled.filter(|disabled| *disabled).count(), 1, "once");
    let left = deliveries(&deployment, &hook).await;
    assert!(left.iter().all(|one| one.next_attempt.is_none() && one.given_up_at.is_some()), "{left:?}");
    assert!(left.iter().all(|one| one.attempts == 1 && one.last_status == Some(410)), "{left:?}");

    // As a transaction leaves it that was under way when the webhook was disabled.
    deployment.sql("UPDATE webhook_deliveries SET next_attempt = now(), given_up_at = NULL");
    assert_eq!(store.due_delivery_count().await.unwrap(), 0, "nobody sends them");
    deployment.store.enable_webhook(&deployment.tenant, hook.webhook.id).await.unwrap().unwrap();
    assert_eq!(store.due_deliveries(10, 10, &[]).await.unwrap(), []);
    let left = deliveries(&deployment, &hook).await;
    assert!(left.iter().all(|one| one.next_attempt.is_none() && one.given_up_at.is_some()), "{left:?}");
    failed(&deployment, "new.txt").await;
    assert_eq!(store.due_deliveries(10, 10, &[]).await.unwrap().len(), 1, "what happens from now on");
}

#[tokio::test]
async fn nothing_is_sent_inward_unless_the_network_is_allowed() {
    let deployment = Deployment::start().await.unwrap();
    let receiver = Receiver::start().await;
    let named = receiver.url.replace("127.0.0.1", "localhost");
    for url in [&receiver.url, &named] {
        webhook(&deployment, url, &["document.failed"]).await;
    }
    failed(&deployment, "a.txt").await;
    let strict = janitor(&deployment, Webhooks::default(), &[]);
    assert_eq!(send(&strict).await, BTreeMap::from([("failed", 2)]));
    assert!(receiver.received().is_empty());
    let errors = deployment.sql("SELECT DISTINCT last_error FROM webhook_deliveries");
    assert_eq!(errors, [[Some("the address is not of the public network".to_owned())]]);
}

#[tokio::test]
async fn a_slow_receiver_keeps_no_other_waiting_and_an_attempt_whose_janitor_died_is_made_again() {
    let deployment = Deployment::start().await.unwrap();
    let receiver = Receiver::start().await;
    // It accepts connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}/", silent.local_addr().unwrap());
    webhook(&deployment, &silent_url, &["document.failed"]).await;
    let quick = webhook(&deployment, &receiver.url, &["document.failed"]).await;
    for n in 0..20 {
        failed(&deployment, &format!("{n}.txt")).await;
    }
    let webhooks =
        Webhooks { time_limit_seconds: 1, concurrency: 8, retry_seconds: vec![3600], ..Webhooks::default() };
    let janitor = janitor(&deployment, webhooks, &["127.0.0.0/8"]);
    let counts = send(&janitor).await;
    assert_eq!((counts["delivered"], counts["failed"]), (20, 20), "each has places of its own");
    assert!(deliveries(&deployment, &quick).await.iter().all(|one| one.attempts == 1));

    failed(&deployment, "last.txt").await;
    let taken = deployment.janitor.due_deliveries(10, 10, &[]).await.unwrap();
    assert_eq!(taken.len(), 2);
    assert_eq!(send(&janitor).await, BTreeMap::new(), "somebody makes it");
    deployment.sql("UPDATE webhook_deliveries SET next_attempt = now() WHERE next_attempt > now() AND attempts = 1 AND last_status IS NULL AND last_error IS NULL");
    let counts = send(&janitor).await;
    assert_eq!((counts["delivered"], counts["failed"]), (1, 1));

    for n in 0..3 {
        failed(&deployment, &format!("more {n}.txt")).await;
    }
    let some = deployment.janitor.due_deliveries(10, 4, &[(quick.webhook.id, 3)]).await.unwrap();
    let of_quick = some.iter().filter(|due| due.webhook == quick.webhook.id).count();
    assert_eq!((of_quick, some.len()), (1, 4), "those on their way count");
}
