//! What only the local store does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use riacho_domain::{Secret, TenantId, UploadId};
use riacho_objects::{Config, Error, Key, Objects, Prefix};

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn config(directory: &Path) -> Config {
    Config { directory: Some(directory.join("objects")), ..Config::default() }
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path.display().to_string()) }
    }
    found
}

/// A body that has sent so many parts and then waits for ever.
fn stalled(parts: usize) -> impl stream::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    stream::iter((0..parts).map(|_| Ok(Bytes::from(vec![7; 1_000_000])))).chain(stream::pending())
}

#[tokio::test]
async fn services_that_look_at_one_directory_at_once_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::connect(&config(directory.path())).await.unwrap();
    for _ in 0..50 {
        let looks = (0..16).map(|_| {
            let objects = objects.clone();
            tokio::spawn(async move { objects.check().await })
        });
        for look in looks.collect::<Vec<_>>() {
            look.await.unwrap().unwrap();
        }
    }
    assert_eq!(files(directory.path()), Vec::<String>::new(), "nothing is left");
}

#[tokio::test]
async fn nobody_sees_an_upload_before_its_end_and_a_dropped_one_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::connect(&config(directory.path())).await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    let root = directory.path().join("objects");
    let upload = objects.put_stream(&key, stalled(3), u64::MAX);
    let under_way = async {
        while files(&root).is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(!objects.exists(&key).await.unwrap());
        assert!(objects.list_all().next().await.is_none(), "parts are no objects");
    };
    tokio::select! {
        _ = upload => panic!("the body never ends"),
        () = under_way => {}
    }
    while !files(&root).is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_swept_when_it_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::connect(&config(directory.path())).await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    objects.put(&key, Bytes::from_static(b"kept")).await.unwrap();
    let left = objects.local_path(&key).unwrap().with_file_name(format!("{}#1", UploadId::new()));
    fs::write(&left, b"half of an upl").unwrap();
    assert_eq!(objects.remove_abandoned(Duration::from_secs(3600)).await.unwrap(), 0);
    assert!(left.exists());
    fs::File::open(&left).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(objects.remove_abandoned(Duration::from_secs(3600)).await.unwrap(), 1);
    assert!(!left.exists());
    assert_eq!(objects.get(&key, 10).await.unwrap(), "kept");
}

#[tokio::test]
async fn deleting_takes_empty_directories_away() {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::connect(&config(directory.path())).await.unwrap();
    for n in 0..5 {
        let key = Key::producer(&tenant(), &format!("a/b/{n}")).unwrap();
        objects.put(&key, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(objects.delete_prefix(&Prefix::tenant(&tenant())).await.unwrap(), 5);
    assert_eq!(fs::read_dir(directory.path().join("objects")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_foreign_file_in_the_directory_is_no_object() {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::connect(&config(directory.path())).await.unwrap();
    let key = Key::original(&tenant(), UploadId::new());
    objects.put(&key, Bytes::from_static(b"x")).await.unwrap();
    fs::write(objects.local_path(&key).unwrap().with_file_name("notes.txt"), b"y").unwrap();
    let listed: Vec<_> = objects.list_all().try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key);
}

#[tokio::test]
async fn many_writers_and_deleters_of_one_tenant_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let objects = Objects::connect(&config(directory.path())).await.unwrap();
    // Each deletion takes the directories away that the next writer needs, up to the root.
    let work = (0..3_000).map(|n| {
        let objects = objects.clone();
        async move {
            let key = Key::producer(&tenant(), &format!("{}/a/b/c/{n}", n % 3)).unwrap();
            if n % 5 == 0 {
                let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![7; 600_000]))]);
                objects.put_stream(&key, body, u64::MAX).await.unwrap();
            } else {
                objects.put(&key, Bytes::from(n.to_string())).await.unwrap();
                assert_eq!(objects.get(&key, 10).await.unwrap(), n.to_string());
            }
            objects.delete(&key).await.unwrap();
        }
    });
    stream::iter(work).for_each_concurrent(8, |work| work).await;
    assert_eq!(files(directory.path()), Vec::<String>::new(), "nothing is left");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_why() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("objects"), b"a file").unwrap();
    let wrong = [
        config(directory.path()),
        Config::default(),
        Config { signing_secret: Some(Secret::from("short")), ..config(&directory.path().join("b")) },
    ];
    for config in wrong {
        let error = Objects::connect(&config).await.unwrap_err();
        assert!(!error.to_string().contains("short") || error.to_string().contains("shorter"), "{error}");
        assert!(matches!(error, Error::Misconfigured { .. } | Error::Unavailable { .. }), "{error}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn objects_are_readable_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    Objects::connect(&config(directory.path())).await.unwrap();
    let mode = fs::metadata(directory.path().join("objects")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
