//! Many documents in one request, as the files of an archive: whole ones, and what strangers send.

use std::io::{Cursor, Write};

use flate2::{Compression, write::GzEncoder};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::RequestBuilder;
use riacho_ingest_gateway::Config;
use riacho_testkit::eventually;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::{
    bulk::{BULK, answer, fate, with_bulk},
    fixture::{Gateway, json, problem},
};

type Files<'a> = &'a [(&'a str, &'a [u8])];

pub(crate) fn zip(files: Files<'_>, method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) fn tar(files: Files<'_>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        add(&mut builder, name.as_bytes(), EntryType::Regular, bytes);
    }
    builder.into_inner().unwrap()
}

/// Adds an entry whose name the library would not write.
pub(crate) fn add(builder: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

pub(crate) fn send(gateway: &Gateway, kind: &str, body: Vec<u8>) -> RequestBuilder {
    gateway.post(BULK).header("content-type", format!("application/{kind}")).body(body)
}

pub(crate) async fn gateway() -> Gateway {
    Gateway::with_config(with_bulk(|_| {})).await
}

async fn names(gateway: &Gateway) -> Vec<String> {
    let page = json(gateway.get("/api/v1/documents?limit=200"), 200).await;
    let mut names: Vec<_> =
        page["documents"].as_array().unwrap().iter().map(|d| text(&d["filename"])).collect();
    names.sort();
    names
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned()
}

/// Bytes that do not compress, the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn every_format_brings_the_same_documents() {
    let gateway = gateway().await;
    let large = noise(1, 900_000);
    let texts: Vec<(String, String)> =
        (0..40).map(|n| (format!("dir/{n}.txt"), format!("the text of {n}"))).collect();
    let mut files: Vec<(&str, &[u8])> = texts.iter().map(|(n, t)| (n.as_str(), t.as_bytes())).collect();
    files.insert(3, ("large.bin", &large));
    let plain = tar(&files);
    let sent = [
        ("zip", zip(&files, CompressionMethod::Deflated)),
        ("x-tar", plain.clone()),
        ("gzip", gz(&plain)),
        ("zstd", zst(&plain)),
    ];
    let mut first = None;
    for (kind, body) in sent {
        let (items, summary) = answer(send(&gateway, kind, body)).await;
        let ids: Vec<_> = items.iter().map(|item| text(&item["id"])).collect();
        let entries: Vec<_> = items.iter().map(|item| item["entry"].as_u64().unwrap()).collect();
        assert_eq!(entries, (1..=41).collect::<Vec<_>>(), "{kind}");
        assert_eq!((&items[0]["name"], &summary["complete"]), (&json!("dir/0.txt"), &json!(true)), "{kind}");
        let fresh = if first.is_none() { 41 } else { 0 };
        assert_eq!(
            (&summary["accepted"], &summary["duplicates"]),
            (&json!(fresh), &json!(41 - fresh)),
            "{kind}"
        );
        assert_eq!(first.get_or_insert_with(|| ids.clone()), &ids, "{kind}");
    }
    assert_eq!(names(&gateway).await.len(), 41);
    let id = &first.unwrap()[3];
    let original = gateway.get(&format!("/api/v1/documents/{id}/content")).send().await.unwrap();
    assert!(original.bytes().await.unwrap() == large, "the bytes are those that were packed");
}

#[tokio::test]
async fn what_is_no_file_is_left_out_and_named() {
    let gateway = gateway().await;
    let mut builder = Builder::new(Vec::new());
    for (name, kind, bytes) in [
        (&b"dir/"[..], EntryType::Directory, &b""[..]),
        (b"old-folder/", EntryType::Regular, b""),
        (b"dir/link", EntryType::Symlink, b""),
        (b"dir/hard", EntryType::Link, b""),
        (b"dir/pipe", EntryType::Fifo, b""),
        (b"dir/disk", EntryType::Block, b""),
        (b"__MACOSX/dir/._a.txt", EntryType::Regular, b"x"),
        (b"dir/.DS_Store", EntryType::Regular, b"x"),
        (b"../../etc/passwd", EntryType::Regular, b"climbs"),
        (b"/absolute.txt", EntryType::Regular, b"absolute"),
        (b"latin-\xe9.txt", EntryType::Regular, b"latin"),
        (b"empty.txt", EntryType::Regular, b""),
    ] {
        add(&mut builder, name, kind, bytes);
    }
    // Names longer than a header holds, and far longer than one is kept.
    let long = format!("{}/{}.txt", "d".repeat(3_000), "ã".repeat(300));
    let mut header = Header::new_gnu();
    header.set_size(4);
    builder.append_data(&mut header, &long, &b"long"[..]).unwrap();
    let (items, summary) = answer(send(&gateway, "x-tar", builder.into_inner().unwrap())).await;
    let seen: Vec<_> = items.iter().map(|item| (item["entry"].as_u64().unwrap(), fate(item))).collect();
    let wanted = [
        (3, "skipped symlink"),
        (4, "skipped hard_link"),
        (5, "skipped special"),
        (6, "skipped special"),
        (7, "skipped system_file"),
        (8, "skipped system_file"),
        (9, "new"),
        (10, "new"),
        (11, "new"),
        (12, "empty"),
        (13, "new"),
    ];
    assert_eq!(seen, wanted.map(|(n, fate)| (n, fate.to_owned())));
    assert_eq!((&summary["skipped"], &summary["complete"]), (&json!(6), &json!(true)));
    let kept = names(&gateway).await;
    assert!(kept.contains(&"passwd".to_owned()) && kept.contains(&"absolute.txt".to_owned()), "{kept:?}");
    assert!(kept.contains(&"latin-\u{fffd}.txt".to_owned()), "{kept:?}");
    assert!(kept.iter().all(|name| name.len() <= 255), "{kept:?}");
}

#[tokio::test]
async fn links_and_folders_of_a_zip_are_no_files() {
    let gateway = gateway().await;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    writer.add_directory("dir", options).unwrap();
    writer.add_symlink("dir/link", "/etc/passwd", options).unwrap();
    writer.start_file("__MACOSX/._a.txt", options).unwrap();
    writer.start_file("dir/a.txt", options).unwrap();
    writer.write_all(b"a file").unwrap();
    let (items, _) = answer(send(&gateway, "zip", writer.finish().unwrap().into_inner())).await;
    let fates: Vec<_> = items.iter().map(fate).collect();
    assert_eq!(fates, ["skipped symlink", "skipped system_file", "new"]);
    assert_eq!(names(&gateway).await, ["a.txt"]);
    // What is empty has nothing in it, and is whole.
    let (items, summary) = answer(send(&gateway, "zip", zip(&[], CompressionMethod::Stored))).await;
    assert!(items.is_empty() && summary["complete"] == true, "{summary}");
}

#[tokio::test]
async fn a_body_that_is_not_what_its_type_says_is_refused() {
    let gateway = gateway().await;
    let files: Files<'_> = &[("a.txt", b"text")];
    let (zip, tar) = (zip(files, CompressionMethod::Deflated), tar(files));
    let (tgz, tzst) = (gz(&tar), zst(&tar));
    for (kind, body) in
        [("zip", &tar), ("zip", &tgz), ("x-tar", &zip), ("gzip", &tzst), ("zstd", &tar), ("x-tar", &tgz)]
    {
        problem(send(&gateway, kind, body.clone()), 422, "archive_mismatch").await;
    }
    for (kind, body) in [
        ("zip", b"no archive at all".to_vec()),
        ("x-tar", b"no archive at all".to_vec()),
        ("x-tar", vec![b'x'; 10_000]),
        ("gzip", gz(b"no archive at all")),
        ("gzip", gz(&vec![b'x'; 10_000])),
        ("zstd", zst(b"")),
        ("zip", b"PK\x03\x04 and nothing more".to_vec()),
    ] {
        problem(send(&gateway, kind, body), 422, "archive_unreadable").await;
    }
    problem(send(&gateway, "zip", Vec::new()), 400, "empty").await;
    assert!(names(&gateway).await.is_empty());
}

#[tokio::test]
async fn an_archive_that_is_cut_off_says_so_and_repeated_whole_brings_the_rest() {
    let gateway = gateway().await;
    let noise: Vec<_> = (0..6).map(|n| (format!("{n}.bin"), noise(n + 9, 20_000))).collect();
    let files: Vec<(&str, &[u8])> = noise.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let plain = tar(&files);
    for (kind, whole) in [("x-tar", plain.clone()), ("gzip", gz(&plain))] {
        let (items, summary) = answer(send(&gateway, kind, whole[..70_000].to_vec())).await;
        let fates: Vec<_> = items.iter().map(|item| fate(item).replace("duplicate", "new")).collect();
        assert_eq!(fates, ["new", "new", "new", "cut_off"], "{kind}");
        assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("cut_off")));
    }
    // Of zstd the first block is not whole, so nothing came out of it.
    problem(send(&gateway, "zstd", zst(&plain)[..70_000].to_vec()), 422, "archive_unreadable").await;
    // At the border of two entries nothing but the archive's end is missing.
    let (items, summary) = answer(send(&gateway, "x-tar", plain[..plain.len() - 1_024].to_vec())).await;
    assert_eq!((items.len(), &summary["problem"]["code"]), (6, &json!("cut_off")), "{summary}");
    let (_, summary) = answer(send(&gateway, "gzip", gz(&plain))).await;
    assert_eq!((&summary["duplicates"], &summary["complete"]), (&json!(6), &json!(true)), "{summary}");
    // The directory of a zip archive stands at its end.
    let zip = zip(&files, CompressionMethod::Stored);
    problem(send(&gateway, "zip", zip[..70_000].to_vec()), 422, "archive_unreadable").await;
    assert_eq!(names(&gateway).await.len(), 6);
}

#[tokio::test]
async fn what_stands_behind_the_end_of_a_tar_is_not_lost_without_a_word() {
    let gateway = gateway().await;
    let (first, second) = (tar(&[("a.txt", b"first")]), tar(&[("b.txt", b"second")]));
    for (kind, body) in [
        ("x-gtar", [first.clone(), second.clone()].concat()),
        ("gzip", [gz(&first), gz(&second)].concat()),
        ("zstd", [zst(&first), zst(&second)].concat()),
    ] {
        let (items, summary) = answer(send(&gateway, kind, body)).await;
        assert_eq!((items.len(), &summary["complete"]), (1, &json!(false)), "{kind} {summary}");
        assert!(text(&summary["problem"]["detail"]).contains("behind the end"), "{kind} {summary}");
        assert!(summary["retry_after_seconds"].is_null(), "{kind}: a repetition does not help");
    }
    let filled = [first, vec![0; 20_480]].concat();
    assert_eq!(answer(send(&gateway, "x-tar", filled)).await.1["complete"], true, "a record is filled up");
}

#[tokio::test]
async fn a_file_with_holes_is_taken_as_it_is_or_refused() {
    let gateway = gateway().await;
    let mut builder = Builder::new(Vec::new());
    let pax = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.name", b"holes.bin"),
        ("GNU.sparse.realsize", b"100000"),
    ];
    builder.append_pax_extensions(pax).unwrap();
    add(&mut builder, b"GNUSparseFile.1/holes.bin", EntryType::Regular, b"1\n0\n5\nbytes");
    add(&mut builder, b"after.txt", EntryType::Regular, b"after");
    let (items, summary) = answer(send(&gateway, "x-tar", builder.into_inner().unwrap())).await;
    let fates: Vec<_> = items.iter().map(fate).collect();
    assert_eq!(
        (fates.as_slice(), &summary["complete"]),
        (&["unsupported_compression".to_owned(), "new".to_owned()][..], &json!(true))
    );
}

#[tokio::test]
async fn a_damaged_file_of_a_zip_harms_no_other_and_is_not_kept() {
    let gateway = gateway().await;
    let files: Files<'_> =
        &[("a.txt", b"the first text"), ("b.txt", b"the second text"), ("c.txt", b"the third text")];
    let mut bytes = zip(files, CompressionMethod::Stored);
    let at = bytes.windows(15).position(|part| part == b"the second text").unwrap();
    bytes[at] = b'T';
    let (items, summary) = answer(send(&gateway, "zip", bytes)).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["new", "damaged", "new"]);
    assert_eq!(summary["complete"], true);
    // One of many pieces, which are on their way into the store when the damage shows.
    let large = noise(5, 2_000_000);
    let mut bytes = zip(&[("l.bin", &large), ("d.txt", b"behind it")], CompressionMethod::Stored);
    bytes[1_500_000] ^= 1;
    let (items, _) = answer(send(&gateway, "zip", bytes)).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["damaged", "new"]);
    assert_eq!(names(&gateway).await, ["a.txt", "c.txt", "d.txt"]);
    // A tar archive has nothing to go on by, and what is compressed has a checksum at its end.
    let mut packed = gz(&tar(files));
    let end = packed.len() - 5;
    packed[end] ^= 1;
    let (items, summary) = answer(send(&gateway, "gzip", packed)).await;
    assert_eq!((items.len(), &summary["problem"]["code"]), (3, &json!("damaged")), "{summary}");
    let mut plain = tar(files);
    plain[1_024 + 10] ^= 1;
    let (items, summary) = answer(send(&gateway, "x-tar", plain)).await;
    assert_eq!((items.len(), &summary["problem"]["code"]), (1, &json!("damaged")), "{summary}");
}

/// Sets a field of 16 bits in both headers of the first file of a zip archive.
fn patched(mut zip: Vec<u8>, offset: usize, value: u16) -> Vec<u8> {
    for (mark, shift) in [(b"PK\x03\x04", 0), (b"PK\x01\x02", 2)] {
        let at = zip.windows(4).position(|part| part == mark).unwrap() + offset + shift;
        zip[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    zip
}

#[tokio::test]
async fn files_that_are_encrypted_or_packed_in_unknown_ways_are_named() {
    let gateway = gateway().await;
    let whole = zip(&[("a.txt", b"secret"), ("b.txt", b"open")], CompressionMethod::Stored);
    let (items, _) = answer(send(&gateway, "zip", patched(whole.clone(), 6, 1))).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["encrypted", "new"]);
    let (items, _) = answer(send(&gateway, "zip", patched(whole, 8, 98))).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["unsupported_compression", "duplicate"]);
}

#[tokio::test]
async fn a_bomb_is_stopped_whatever_its_format() {
    let gateway = Gateway::with_config(with_bulk(|bulk| bulk.max_unpacked_bytes = 64 << 20)).await;
    let zeros = vec![0; 40 << 20];
    let files: Files<'_> = &[("a.txt", b"harmless"), ("b.bin", &zeros), ("c.txt", b"behind it")];
    // Its directory says it.
    problem(send(&gateway, "zip", zip(files, CompressionMethod::Deflated)), 422, "bomb").await;
    // It lies, and what comes out is counted.
    let mut lying = zip(files, CompressionMethod::Deflated);
    let real = u32::try_from(zeros.len()).unwrap().to_le_bytes();
    let places: Vec<_> = (0..lying.len() - 4).filter(|at| lying[*at..*at + 4] == real).collect();
    places.into_iter().for_each(|at| lying[at..at + 4].copy_from_slice(&9u32.to_le_bytes()));
    let (items, _) = answer(send(&gateway, "zip", lying)).await;
    assert!(fate(&items[0]) == "new" && matches!(fate(&items[1]).as_str(), "bomb" | "damaged"), "{items:?}");
    let plain = tar(files);
    for (kind, body) in [("gzip", gz(&plain)), ("zstd", zst(&plain))] {
        let (items, summary) = answer(send(&gateway, kind, body)).await;
        assert_eq!((fate(&items[1]), items.len()), ("bomb".to_owned(), 2), "{kind}");
        assert_eq!(
            (&summary["complete"], &summary["problem"]["code"]),
            (&json!(false), &json!("bomb")),
            "{kind}"
        );
    }
    // Two files in the same bytes.
    let mut overlapping = zip(&[("a", b"aaaa"), ("b", b"bbbb")], CompressionMethod::Stored);
    let second = overlapping.windows(4).rposition(|part| part == b"PK\x01\x02").unwrap();
    overlapping[second + 42..second + 46].copy_from_slice(&0u32.to_le_bytes());
    problem(send(&gateway, "zip", overlapping), 422, "bomb").await;
    // An archive in an archive is a file like others, and is not unpacked.
    let inner = zip(&[("b.bin", &zeros)], CompressionMethod::Deflated);
    let (items, _) =
        answer(send(&gateway, "zip", zip(&[("inner.zip", &inner)], CompressionMethod::Stored))).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn archives_with_too_many_entries_or_names_that_are_not_certain_are_refused() {
    let gateway = Gateway::with_config(with_bulk(|bulk| bulk.max_items = 5)).await;
    let texts: Vec<_> = (0..6).map(|n| (format!("{n}.txt"), format!("text {n}"))).collect();
    let files: Vec<(&str, &[u8])> = texts.iter().map(|(n, t)| (n.as_str(), t.as_bytes())).collect();
    problem(send(&gateway, "zip", zip(&files, CompressionMethod::Stored)), 422, "too_many_entries").await;
    let (items, summary) = answer(send(&gateway, "x-tar", tar(&files))).await;
    assert_eq!((items.len(), &summary["problem"]["code"]), (5, &json!("too_many_entries")));
    // Folders count: millions of them would cost as much to read.
    let mut builder = Builder::new(Vec::new());
    (0..6).for_each(|n| add(&mut builder, format!("{n}/").as_bytes(), EntryType::Directory, b""));
    let folders = builder.into_inner().unwrap();
    problem(send(&gateway, "x-tar", folders), 422, "too_many_entries").await;
    // Two files of one name are two documents where each can be had, which in a zip archive is not so.
    let twice: Files<'_> = &[("x.txt", b"one"), ("x.txt", b"other")];
    let (items, _) = answer(send(&gateway, "x-tar", tar(twice))).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["new", "new"]);
    let mut same = zip(&[("x.txt", b"one"), ("y.txt", b"other")], CompressionMethod::Stored);
    let places: Vec<_> = (0..same.len() - 5).filter(|at| &same[*at..*at + 5] == b"y.txt").collect();
    places.into_iter().for_each(|at| same[at] = b'x');
    problem(send(&gateway, "zip", same), 422, "duplicate_names").await;
}

#[tokio::test]
async fn a_file_that_is_too_large_harms_no_other() {
    let config = Config { max_upload_bytes: 300_000, ..with_bulk(|_| {}) };
    let gateway = Gateway::with_config(config).await;
    let (large, fits) = (noise(2, 700_000), noise(3, 300_000));
    let files: Files<'_> = &[("large.bin", &large), ("fits.bin", &fits), ("small.txt", b"small")];
    let wanted = ["too_large", "new", "new"];
    for (kind, body) in [("zip", zip(files, CompressionMethod::Deflated)), ("gzip", gz(&tar(files)))] {
        let (items, summary) = answer(send(&gateway, kind, body)).await;
        let fates: Vec<_> = items.iter().map(|item| fate(item).replace("duplicate", "new")).collect();
        assert_eq!(
            (fates.as_slice(), &summary["complete"]),
            (&wanted.map(str::to_owned)[..], &json!(true)),
            "{kind}"
        );
    }
    let config = with_bulk(|bulk| bulk.max_bytes = 1_000);
    let gateway = Gateway::with_config(config).await;
    problem(send(&gateway, "zip", vec![b'x'; 1_001]), 413, "too_large").await;
    let pieces = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100])));
    let unknown = gateway.post(BULK).header("content-type", "application/zip");
    problem(unknown.body(reqwest::Body::wrap_stream(pieces)), 413, "too_large").await;
}

/// The children that unpack for a configuration that no other test has.
fn children(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        arguments.contains("unpack-child") && arguments.contains(marker)
    })
    .collect()
}

#[tokio::test]
async fn a_child_that_dies_costs_the_rest_of_its_request_and_a_repetition_brings_it() {
    let own = 9_876;
    // One document a second, so that the child is held up in the middle.
    let limits = riacho_store::Limits { uploads_per_minute: 60, upload_burst: 2, ..Default::default() };
    let change = crate::fixture::Change {
        config: with_bulk(|bulk| bulk.max_items = own),
        limits,
        ..Default::default()
    };
    let gateway = Gateway::with(change).await;
    let noise: Vec<_> = (0..6).map(|n| (format!("{n}.bin"), noise(n + 30, 400_000))).collect();
    let files: Vec<(&str, &[u8])> = noise.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let body = tar(&files);
    let request = send(&gateway, "x-tar", body.clone());
    let answered = tokio::spawn(answer(request));
    let marker = format!("\"max_entries\":{own}");
    eventually(|| async { !names(&gateway).await.is_empty() }).await;
    let found = children(&marker);
    assert_eq!(found.len(), 1);
    kill(Pid::from_raw(found[0]), Signal::SIGKILL).unwrap();
    let (items, summary) = answered.await.unwrap();
    assert!(items.len() < 6 || fate(&items[5]) != "new", "{items:?}");
    assert_eq!((&summary["complete"], &summary["problem"]["code"]), (&json!(false), &json!("unavailable")));
    let (items, summary) = answer(send(&gateway, "x-tar", body)).await;
    assert_eq!((items.len(), &summary["complete"], names(&gateway).await.len()), (6, &json!(true), 6));
    // A child is gone with its archive.
    eventually(|| async { children(&marker).is_empty() }).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_what_its_archive_began() {
    let own = 9_877;
    let limits = riacho_store::Limits { uploads_per_minute: 6, upload_burst: 1, ..Default::default() };
    let change = crate::fixture::Change {
        config: with_bulk(|bulk| (bulk.max_items, bulk.max_requests) = (own, 1)),
        limits,
        ..Default::default()
    };
    let gateway = Gateway::with(change).await;
    // More than fits into the pipe, so that the child cannot run ahead.
    let noise: Vec<_> = (0..3).map(|n| (format!("{n}.bin"), noise(n + 40, 400_000))).collect();
    let files: Vec<(&str, &[u8])> = noise.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let request = send(&gateway, "x-tar", tar(&files));
    let response = request.send().await.unwrap();
    let marker = format!("\"max_entries\":{own}");
    eventually(|| async { !names(&gateway).await.is_empty() }).await;
    assert!(!children(&marker).is_empty(), "it waits for the rate");
    drop(response);
    eventually(|| async { children(&marker).is_empty() }).await;
    // The only place is free again, so nothing more is taken in.
    let again = || send(&gateway, "x-tar", b"no archive".to_vec()).send();
    eventually(|| async { again().await.unwrap().status() == 422 }).await;
    assert!(names(&gateway).await.len() < 3);
}
