//! Archives whose files are known by their paths.

use serde_json::{Value, json as value};
use tar::{Builder, EntryType, Header};
use zip::CompressionMethod;

use crate::{
    bulk::{answer, fate},
    bulk_archives::{add, gateway, gz, send, tar, text, zip},
    fixture::json,
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
    assert_eq!((versions(&items), &summary["duplicates"]), (before.clone(), &value!(3)));
    // A zip archive of the same folder, in which a file changed.
    let second = [("a/x.txt", &b"two"[..]), ("b/x.txt", b"one"), ("c.txt", b"three")];
    let (items, summary) = answer(by_path("zip", zip(&second, CompressionMethod::Deflated))).await;
    assert_eq!((&summary["accepted"], &summary["duplicates"]), (&value!(1), &value!(2)), "{items:?}");
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
    // The longest that can be one, in characters of four bytes.
    let longest = "\u{1f600}".repeat(508) + ".txt";
    for name in [format!("./{longest}"), format!("x{longest}")] {
        let mut header = Header::new_gnu();
        header.set_size(4);
        builder.append_data(&mut header, name, &b"long"[..]).unwrap();
    }
    let (items, _) = answer(by_path("x-tar", builder.into_inner().unwrap())).await;
    let fates: Vec<_> = items.iter().map(fate).collect();
    let wrong = "invalid_field";
    assert_eq!(fates, [wrong, wrong, wrong, "new", "new", wrong], "{items:?}");
    let page = json(gateway.get("/api/v1/documents?limit=200"), 200).await;
    let kept = page["documents"].as_array().unwrap();
    assert!(kept.iter().any(|document| document["external_id"] == *longest), "{kept:?}");
    assert!(text(&items[0]["problem"]["detail"]).contains("`by_path`"), "{items:?}");
}
