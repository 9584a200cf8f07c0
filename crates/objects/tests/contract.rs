//! What the object store promises, on the local directory and on a real S3 server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use riacho_domain::{DocumentId, RunId, TenantId, UploadId};
use riacho_objects::{Config, Error, Key, Objects, Prefix};
use riacho_testkit::s3::S3;
use tempfile::TempDir;

/// A store, and what must live as long as it.
struct Fixture {
    objects: Objects,
    _directory: Option<TempDir>,
    _server: Option<Arc<S3>>,
}

async fn local() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { directory: Some(directory.path().join("objects")), ..Config::default() };
    let objects = Objects::connect(&config).await.unwrap();
    Fixture { objects, _directory: Some(directory), _server: None }
}

async fn s3() -> Fixture {
    let server = S3::shared().await.unwrap();
    let objects = Objects::connect(&server.config()).await.unwrap();
    Fixture { objects, _directory: None, _server: Some(server) }
}

/// Runs each promise on both stores.
macro_rules! on_both_stores {
    ($($promise:ident),* $(,)?) => {
        mod on_a_local_directory {
            $(#[tokio::test] async fn $promise() { super::$promise(super::local().await.objects.clone(), "local").await })*
        }
        mod on_s3 {
            $(#[tokio::test] async fn $promise() {
                let fixture = super::s3().await;
                super::$promise(fixture.objects.clone(), "s3").await
            })*
        }
    };
}

on_both_stores!(
    what_is_put_is_what_is_got,
    a_stream_is_stored_with_its_size_and_hash,
    a_body_over_the_limit_leaves_nothing,
    a_body_that_breaks_off_leaves_nothing,
    ranges_are_cut_at_the_end_and_refused_beyond_it,
    a_limit_on_reading_holds,
    what_is_not_there_is_not_found,
    a_prefix_ends_at_a_whole_part,
    the_store_answers_that_it_works,
    a_store_is_the_deployments_that_took_it_first,
);

/// A tenant of this test only: the tests of a process share a server.
fn tenant() -> TenantId {
    format!("t{}", UploadId::new().0.simple()).parse().unwrap()
}

fn parts(count: usize, bytes: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from((0..bytes).map(|i| (i * 31 + n * 7) as u8).collect::<Vec<_>>())).collect()
}

fn body(parts: &[Bytes]) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    stream::iter(parts.to_vec()).map(Ok)
}

async fn keys(objects: &Objects, prefix: &Prefix) -> BTreeSet<Key> {
    objects.list(prefix).map_ok(|entry| entry.key).try_collect().await.unwrap()
}

async fn what_is_put_is_what_is_got(objects: Objects, _: &str) {
    let (tenant, document, run) = (tenant(), DocumentId::new(), RunId::new());
    let keys = [
        Key::original(&tenant, UploadId::new()),
        Key::text(&tenant, document, 1, run),
        Key::claim(&tenant, document, 1, run, "00ff.a_b-c").unwrap(),
        Key::producer(&tenant, "2026/a=b+c@d.txt").unwrap(),
    ];
    for key in &keys {
        let bytes = Bytes::from(format!("the bytes of {key}"));
        let stored = objects.put(key, bytes.clone()).await.unwrap();
        assert_eq!(stored.size, bytes.len() as u64);
        assert_eq!(objects.get(key, 1000).await.unwrap(), bytes);
        assert_eq!(objects.hash(key, 1000).await.unwrap(), stored);
        assert_eq!(objects.head(key).await.unwrap().size, stored.size);
    }
    objects.put(&keys[0], Bytes::from_static(b"again")).await.unwrap();
    assert_eq!(objects.get(&keys[0], 1000).await.unwrap(), "again");
    objects.put(&keys[0], Bytes::new()).await.unwrap();
    assert!(objects.get(&keys[0], 0).await.unwrap().is_empty());
}

async fn a_stream_is_stored_with_its_size_and_hash(objects: Objects, _: &str) {
    // Empty, small, and over two parts of a multipart upload.
    for (count, bytes) in [(0, 0), (3, 100), (13, 1_000_003)] {
        let (key, parts) = (Key::original(&tenant(), UploadId::new()), parts(count, bytes));
        let stored = objects.put_stream(&key, body(&parts), 20_000_000).await.unwrap();
        let whole = parts.concat();
        assert_eq!(stored.size, whole.len() as u64);
        assert_eq!(objects.get(&key, 20_000_000).await.unwrap(), whole);
        assert_eq!(objects.hash(&key, 20_000_000).await.unwrap(), stored);
        let download = objects.get_stream(&key, None).await.unwrap();
        assert_eq!(download.size, stored.size);
        let read: Vec<Bytes> = download.body.try_collect().await.unwrap();
        assert_eq!(read.concat(), whole);
    }
}

async fn a_body_over_the_limit_leaves_nothing(objects: Objects, _: &str) {
    let tenant = tenant();
    for (limit, bytes) in [(299, 100), (10_000_000, 4_000_000)] {
        let key = Key::original(&tenant, UploadId::new());
        let refused = objects.put_stream(&key, body(&parts(3, bytes)), limit).await.unwrap_err();
        assert!(matches!(refused, Error::TooLarge { limit_bytes } if limit_bytes == limit), "{refused}");
        assert!(!objects.exists(&key).await.unwrap());
    }
    let key = Key::original(&tenant, UploadId::new());
    objects.put_stream(&key, body(&parts(3, 100)), 300).await.expect("a body of just the limit fits");
    assert_eq!(keys(&objects, &Prefix::tenant(&tenant)).await, [key].into());
}

async fn a_body_that_breaks_off_leaves_nothing(objects: Objects, _: &str) {
    let tenant = tenant();
    for bytes in [100, 4_000_000] {
        let key = Key::original(&tenant, UploadId::new());
        let broken = body(&parts(2, bytes)).chain(stream::iter([Err(io::Error::other("cable cut"))]));
        let error = objects.put_stream(&key, broken, u64::MAX).await.unwrap_err();
        assert!(matches!(&error, Error::Body { reason } if reason == "cable cut"), "{error}");
        assert!(!error.is_retryable() && !objects.exists(&key).await.unwrap());
    }
    assert!(keys(&objects, &Prefix::tenant(&tenant)).await.is_empty());
}

async fn ranges_are_cut_at_the_end_and_refused_beyond_it(objects: Objects, _: &str) {
    let key = Key::original(&tenant(), UploadId::new());
    objects.put(&key, Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(objects.get_range(&key, 0..1).await.unwrap(), "0");
    assert_eq!(objects.get_range(&key, 7..10).await.unwrap(), "789");
    assert_eq!(objects.get_range(&key, 7..99).await.unwrap(), "789");
    for beyond in [10..11, 99..100] {
        let error = objects.get_range(&key, beyond.clone()).await.unwrap_err();
        assert!(matches!(error, Error::OutOfRange { size: 10 }), "{beyond:?}: {error}");
    }
    let download = objects.get_stream(&key, Some(3..6)).await.unwrap();
    assert_eq!((download.size, download.range.clone()), (10, 3..6));
    let read: Vec<Bytes> = download.body.try_collect().await.unwrap();
    assert_eq!(read.concat(), b"345");
}

async fn a_limit_on_reading_holds(objects: Objects, _: &str) {
    let key = Key::original(&tenant(), UploadId::new());
    objects.put(&key, Bytes::from_static(b"0123456789")).await.unwrap();
    assert!(objects.get(&key, 10).await.is_ok());
    assert!(matches!(objects.get(&key, 9).await, Err(Error::TooLarge { limit_bytes: 9 })));
    assert!(matches!(objects.hash(&key, 9).await, Err(Error::TooLarge { .. })));
}

async fn what_is_not_there_is_not_found(objects: Objects, _: &str) {
    let key = Key::original(&tenant(), UploadId::new());
    assert!(!objects.exists(&key).await.unwrap());
    let missing = |error: Error| matches!(&error, Error::NotFound { key: told } if *told == key);
    assert!(missing(objects.get(&key, 10).await.unwrap_err()));
    assert!(missing(objects.get_range(&key, 0..1).await.unwrap_err()));
    assert!(missing(objects.get_stream(&key, None).await.unwrap_err()));
    assert!(missing(objects.head(&key).await.unwrap_err()));
    objects.delete(&key).await.expect("deleting nothing is fine");
    assert_eq!(objects.delete_prefix(&Prefix::tenant(key.tenant())).await.unwrap(), 0);
}

async fn a_prefix_ends_at_a_whole_part(objects: Objects, _: &str) {
    let tenant = tenant();
    let longer: TenantId = format!("{tenant}x").parse().unwrap();
    let (document, run, other) = (DocumentId::new(), RunId::new(), RunId::new());
    let claim = |run, version, event: &str| Key::claim(&tenant, document, version, run, event).unwrap();
    let kept = [
        Key::original(&longer, UploadId::new()),
        Key::text(&tenant, document, 1, run),
        claim(run, 11, "a"),
        claim(other, 1, "a"),
    ];
    let gone = [claim(run, 1, "a"), claim(run, 1, "b")];
    for key in kept.iter().chain(&gone) {
        objects.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    let prefix = Prefix::claims_of_run(&tenant, document, 1, run);
    assert_eq!(keys(&objects, &prefix).await, gone.into());
    assert_eq!(keys(&objects, &Prefix::claims_of_version(&tenant, document, 1)).await.len(), 3);
    assert_eq!(objects.delete_prefix(&prefix).await.unwrap(), 2);
    assert_eq!(keys(&objects, &prefix).await.len(), 0);
    assert_eq!(keys(&objects, &Prefix::tenant(&tenant)).await.len(), 3);
    let all: Vec<Key> = objects.list_all().map_ok(|entry| entry.key).try_collect().await.unwrap();
    assert!(kept.iter().all(|key| all.contains(key)));
    for prefix in [Prefix::tenant(&tenant), Prefix::tenant(&longer)] {
        objects.delete_prefix(&prefix).await.unwrap();
    }
    assert!(keys(&objects, &Prefix::tenant(&tenant)).await.is_empty());
}

async fn the_store_answers_that_it_works(objects: Objects, store: &str) {
    objects.check().await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    assert_eq!(objects.local_path(&key).is_some(), store == "local");
    assert_eq!(objects.remove_abandoned(Duration::ZERO).await.unwrap(), 0);
}

async fn a_store_is_the_deployments_that_took_it_first(objects: Objects, _: &str) {
    for name in ["first", "second"] {
        objects.set_owner(name).await.unwrap();
        assert_eq!(objects.owner().await.unwrap().as_deref(), Some("first"));
    }
    let named = objects.list_all().try_any(|entry| std::future::ready(entry.key.as_str().contains("first")));
    assert!(!named.await.unwrap(), "it is no object of a tenant");
}
