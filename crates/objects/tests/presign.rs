//! A presigned URL stores the one object that it was made for, and a changed or late one is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use riacho_domain::{Secret, TenantId, UploadId};
use riacho_objects::{Config, Error, Key, LocalUploadQuery, Objects, PresignPut, Presigned, S3Config};
use riacho_testkit::s3::S3;
use tempfile::TempDir;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn options(content_type: Option<&str>) -> PresignPut {
    PresignPut {
        content_type: content_type.map(str::to_owned),
        expires_in: Duration::from_secs(600),
        max_bytes: 1000,
    }
}

async fn local() -> (Objects, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        directory: Some(directory.path().to_owned()),
        signing_secret: Some(Secret::from(SECRET)),
        ..Config::default()
    };
    (Objects::connect(&config).await.unwrap(), directory)
}

/// What a gateway reads from a local URL.
fn read(presigned: &Presigned) -> (UploadId, LocalUploadQuery) {
    let url = url::Url::parse("http://gateway").unwrap().join(&presigned.url).unwrap();
    let upload = url.path().strip_prefix("/api/v1/uploads/").unwrap().parse().unwrap();
    let pairs: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let query = LocalUploadQuery {
        tenant: pairs["tenant"].parse().unwrap(),
        expires: pairs["expires"].parse().unwrap(),
        max_bytes: pairs["max_bytes"].parse().unwrap(),
        content_type: pairs.get("content_type").cloned(),
        signature: pairs["signature"].clone(),
    };
    (upload, query)
}

#[tokio::test]
async fn a_local_url_grants_its_object_and_limit() {
    let (objects, _directory) = local().await;
    let key = Key::original(&tenant(), UploadId::new());
    let presigned = objects.presign_put(&key, &options(Some("text/plain; charset=utf-8"))).await.unwrap();
    assert_eq!(presigned.headers, [("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())]);
    let (upload, query) = read(&presigned);
    let grant = objects.verify_local(upload, &query, Some("text/plain; charset=utf-8")).unwrap();
    assert_eq!((grant.key, grant.max_bytes), (key.clone(), 1000));

    let untyped = objects.presign_put(&key, &options(None)).await.unwrap();
    let (upload, query) = read(&untyped);
    for sent in [None, Some("text/plain")] {
        objects.verify_local(upload, &query, sent).expect("any type fits where none was signed");
    }
}

#[tokio::test]
async fn a_local_url_that_was_changed_is_refused() {
    let (objects, _directory) = local().await;
    let key = Key::original(&tenant(), UploadId::new());
    let presigned = objects.presign_put(&key, &options(Some("text/plain"))).await.unwrap();
    let (upload, good) = read(&presigned);
    let changed = [
        (UploadId::new(), good.clone(), Some("text/plain")),
        (upload, LocalUploadQuery { tenant: "other".parse().unwrap(), ..good.clone() }, Some("text/plain")),
        (upload, LocalUploadQuery { expires: good.expires + 1, ..good.clone() }, Some("text/plain")),
        (upload, LocalUploadQuery { max_bytes: 1001, ..good.clone() }, Some("text/plain")),
        (upload, LocalUploadQuery { content_type: None, ..good.clone() }, None),
        (
            upload,
            LocalUploadQuery { content_type: Some("text/html".to_owned()), ..good.clone() },
            Some("text/html"),
        ),
        (upload, LocalUploadQuery { signature: String::new(), ..good.clone() }, Some("text/plain")),
        (upload, LocalUploadQuery { signature: "zz".to_owned(), ..good.clone() }, Some("text/plain")),
        (upload, LocalUploadQuery { signature: "0".repeat(64), ..good.clone() }, Some("text/plain")),
        (
            upload,
            LocalUploadQuery { signature: good.signature[..32].to_owned(), ..good.clone() },
            Some("text/plain"),
        ),
        (upload, good.clone(), Some("text/html")),
        (upload, good.clone(), None),
    ];
    for (upload, query, sent) in changed {
        let refused = objects.verify_local(upload, &query, sent);
        assert!(matches!(refused, Err(Error::Refused { .. })), "{query:?} {sent:?}");
    }
    objects.verify_local(upload, &good, Some("text/plain")).expect("the unchanged one is good");
}

#[tokio::test]
async fn a_local_url_that_is_late_is_refused() {
    let (objects, _directory) = local().await;
    let key = Key::original(&tenant(), UploadId::new());
    let now = PresignPut { expires_in: Duration::ZERO, ..options(None) };
    let (upload, query) = read(&objects.presign_put(&key, &now).await.unwrap());
    let refused = objects.verify_local(upload, &query, None).unwrap_err();
    assert!(matches!(refused, Error::Refused { reason } if reason.contains("expired")), "{refused}");
}

#[tokio::test]
async fn another_secret_does_not_open_a_local_url() {
    let (objects, directory) = local().await;
    let key = Key::original(&tenant(), UploadId::new());
    let (upload, query) = read(&objects.presign_put(&key, &options(None)).await.unwrap());
    let secret = Some(Secret::from("another secret of 32 bytes or so"));
    let config =
        Config { directory: Some(directory.path().to_owned()), signing_secret: secret, ..Config::default() };
    let other = Objects::connect(&config).await.unwrap();
    assert!(matches!(other.verify_local(upload, &query, None), Err(Error::Refused { .. })));
    let none = Objects::connect(&Config { signing_secret: None, ..config }).await.unwrap();
    assert!(matches!(none.verify_local(upload, &query, None), Err(Error::Misconfigured { .. })));
    assert!(matches!(none.presign_put(&key, &options(None)).await, Err(Error::Misconfigured { .. })));
}

#[tokio::test]
async fn only_an_original_can_be_presigned() {
    let (objects, _directory) = local().await;
    let key = Key::producer(&tenant(), "x").unwrap();
    assert!(matches!(objects.presign_put(&key, &options(None)).await, Err(Error::InvalidKey(_))));
}

/// Sends a body to a presigned URL as a browser would, and gives the status.
async fn send(url: &str, headers: &[(String, String)], body: &'static str) -> u16 {
    let mut request = reqwest::Client::new().put(url).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn an_s3_url_stores_its_object_only() {
    let server = S3::shared().await.unwrap();
    let objects = Objects::connect(&server.config()).await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    let presigned = objects.presign_put(&key, &options(Some("text/plain"))).await.unwrap();
    assert!(!presigned.url.contains(server.secret_key()));

    let other = Key::original(&tenant(), UploadId::new());
    let elsewhere = presigned.url.replace(key.as_str(), other.as_str());
    assert_ne!(elsewhere, presigned.url);
    let longer = presigned.url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000");
    assert_ne!(longer, presigned.url);
    let last = presigned.url.chars().last().unwrap();
    let forged =
        format!("{}{}", &presigned.url[..presigned.url.len() - 1], if last == '0' { '1' } else { '0' });
    for tampered in [&elsewhere, &longer, &forged] {
        assert_eq!(send(tampered, &presigned.headers, "tampered").await, 403, "{tampered}");
    }
    let html = [("content-type".to_owned(), "text/html".to_owned())];
    assert_eq!(send(&presigned.url, &html, "another type").await, 403);
    assert!(!objects.exists(&key).await.unwrap() && !objects.exists(&other).await.unwrap());

    assert_eq!(send(&presigned.url, &presigned.headers[..1], "without its condition").await, 403);
    assert_eq!(send(&presigned.url, &presigned.headers, "the original").await, 200);
    assert_eq!(send(&presigned.url, &presigned.headers, "another one").await, 412);
    assert_eq!(objects.get(&key, 100).await.unwrap(), "the original");
    let query = LocalUploadQuery {
        tenant: tenant(),
        expires: i64::MAX,
        max_bytes: 1,
        content_type: None,
        signature: String::new(),
    };
    assert!(matches!(objects.verify_local(UploadId::new(), &query, None), Err(Error::Refused { .. })));
}

#[tokio::test]
async fn an_s3_url_that_is_late_is_refused() {
    let server = S3::shared().await.unwrap();
    let objects = Objects::connect(&server.config()).await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    let short = PresignPut { expires_in: Duration::from_secs(1), ..options(None) };
    let presigned = objects.presign_put(&key, &short).await.unwrap();
    // The clock decides here, so the test waits for the server to change its answer.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while send(&presigned.url, &presigned.headers, "in time").await != 403 {
        assert!(tokio::time::Instant::now() < deadline, "the URL never expires");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(send(&presigned.url, &presigned.headers, "late").await, 403);
    assert_ne!(objects.get(&key, 100).await.unwrap_or_else(|_| Bytes::new()), "late");
}

#[tokio::test]
async fn an_s3_url_goes_to_the_public_address() {
    let server = S3::shared().await.unwrap();
    let config = server.config();
    let public = Some("https://files.example.org/".to_owned());
    let config = Config { s3: S3Config { public_endpoint: public, ..config.s3 }, ..config };
    let objects = Objects::connect(&config).await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    let presigned = objects.presign_put(&key, &options(None)).await.unwrap();
    assert!(
        presigned.url.starts_with(&format!("https://files.example.org/riacho/{key}?")),
        "{}",
        presigned.url
    );
    objects.check().await.expect("the store itself is used under its own address");
}

#[tokio::test]
async fn wrong_credentials_and_a_missing_server_are_told_apart() {
    let server = S3::shared().await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    let config = server.config();
    let wrong = S3Config { secret_access_key: Some(Secret::from("not-the-secret")), ..config.s3.clone() };
    let objects = Objects::connect(&Config { s3: wrong, ..config.clone() }).await.unwrap();
    let error = objects.put(&key, Bytes::from_static(b"x")).await.unwrap_err();
    assert!(
        matches!(error, Error::Misconfigured { .. }) && !error.to_string().contains("not-the-secret"),
        "{error}"
    );
    let error = objects.check().await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured { .. }), "{error}");

    let half = S3Config { access_key_id: None, ..config.s3.clone() };
    let refused = Objects::connect(&Config { s3: half, ..config.clone() }).await;
    assert!(matches!(refused, Err(Error::Misconfigured { .. })));

    let gone = S3Config { endpoint: Some("http://127.0.0.1:1".to_owned()), ..config.s3.clone() };
    let objects = Objects::connect(&Config { s3: gone, ..config }).await.unwrap();
    let error = objects.put(&key, Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}
