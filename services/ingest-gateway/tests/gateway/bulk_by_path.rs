//! Archives whose files are known by their paths.

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use zip::CompressionMethod;

use crate::{
    bulk::{answer, fate},
    bulk_archives::{add, gateway, gz, send, tar, text, zip},
};

#[tokio::test]
async fn by_path_a_file_that_changed_is_a_new_version_of_its_document() {
    let gateway = gateway().await;
    let by_path = |kind: &str, body| send(&gateway, kind, body).query(&[("by_path", "true")]);
    let versions = |items: &[Value]| {
        items.iter().map(|item| (text(&item["id"]), item["version"].as_u64().unwrap())).collect::<Vec<_>>()
    };
    let first = tar(&[("./a/x.txt", b"one"), ("./b/x.txt", b"one"), ("./c.txt", b"three")]);
    let (items, summary) = answer(by_path("x-tar", first.clone())).await;
    assert_eq!(summary["accepted"], 3, "the same bytes under another path are another document: {items:?}");
    let before = versions(&items);
    let (items, summary) = answer(by_path("gzip", gz(&first))).await;
    assert_eq!((versions(&items), &summary["duplicates"]), (before.clone(), &json!(3)));
    // A zip archive of the same folder, in which a file changed.
    let second = [("a/x.txt", &b"two"[..]), ("b/x.txt", b"one"), ("c.txt", b"three")];
    let (items, summary) = answer(by_path("zip", zip(&second, CompressionMethod::Deflated))).await;
    assert_eq!((&summary["accepted"], &summary["duplicates"]), (&json!(1), &json!(2)), "{items:?}");
    let mut after = before;
    after[0].1 = 2;
    assert_eq!(versions(&items), after);
    let (items, _) = answer(by_path("x-tar", tar(&[("d", b"1"), ("e", b"1"), ("./d", b"2")]))).await;
    assert_eq!(items.iter().map(fate).collect::<Vec<_>>(), ["new", "new", "external_id_repeated"]);
    let mut builder = Builder::new(Vec::new());
    for name in [&b"caf\xe9.txt"[..], b"a\nb.txt"] {
        add(&mut builder, name, EntryType::Regular, b"text");
    }
    let mut header = Header::new_gnu();
    header.set_size(1);
    builder.append_data(&mut header, "x/".repeat(256) + "y", &b"f"[..]).unwrap();
    add(&mut builder, b"good.txt", EntryType::Regular, b"text");
    let (items, _) = answer(by_path("x-tar", builder.into_inner().unwrap())).await;
    let fates: Vec<_> = items.iter().map(fate).collect();
    assert_eq!(fates, ["invalid_field", "invalid_field", "invalid_field", "new"], "{items:?}");
    assert!(text(&items[0]["problem"]["detail"]).contains("`by_path`"), "{items:?}");
}
