//! The bytes of each event, so that a change of the wire format is seen.
//!
//! `golden/<event>.hex` are the bytes of one message with every field set. After a deliberate and
//! compatible change, `RIACHO_UPDATE_GOLDEN=1 cargo test -p riacho-proto` writes them anew; what a
//! review must see is that old files still decode to the same values.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::PathBuf};

use prost_types::Timestamp;
use riacho_proto::{
    ENVELOPE_VERSION, Message,
    v1::{
        Chunk, ChunkSettings, ChunksCut, ChunksEmbedded, ClaimCheck, CompressedPayload, DeadLetter,
        DocumentUploaded, EmbeddedChunk, Envelope, ExtractRequested, IntakeResult, IntakeStatus, Lane,
        Manifest, document_uploaded::Body, envelope::Payload,
    },
};

const DOCUMENT: &str = "0190a5b2-7c3d-7e4f-8a1b-2c3d4e5f6071";
const RELEASE: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
const RUN: &str = "0190a5b2-8888-7abc-9def-0123456789ab";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.hex"))
}

/// Compares with the golden bytes in both directions: what is written, and what is read.
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, message: &M) {
    let bytes = message.encode_to_vec();
    if std::env::var_os("RIACHO_UPDATE_GOLDEN").is_some() {
        let lines: Vec<String> = bytes.chunks(48).map(hex::encode).collect();
        fs::write(path(name), lines.join("\n") + "\n").unwrap();
    }
    let golden: String = fs::read_to_string(path(name)).expect(name).split_whitespace().collect();
    assert_eq!(hex::encode(&bytes), golden, "the bytes of {name} changed");
    let read = M::decode(hex::decode(golden).unwrap().as_slice()).unwrap();
    assert!(read == *message, "the golden bytes of {name} read differently: {read:?}");
}

fn envelope(kind: &str, payload: Payload) -> Envelope {
    Envelope {
        envelope_version: ENVELOPE_VERSION,
        id: "evt-1".into(),
        source: "crm-export".into(),
        r#type: format!("riacho.events.v1.{kind}"),
        subject: "invoice 17".into(),
        time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        dataschema: "https://example.org/schema".into(),
        tenant: "acme".into(),
        document: DOCUMENT.into(),
        version: 3,
        release: RELEASE.into(),
        lane: Lane::Bulk.into(),
        traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        payload: Some(payload),
    }
}

fn chunk() -> Chunk {
    Chunk {
        ordinal: 7,
        text: "O nível do rio subiu 2 m.".into(),
        byte_start: 100,
        byte_end: 126,
        char_start: 98,
        char_end: 123,
        page_first: 2,
        page_last: 3,
        heading_path: vec!["Manual".into(), "Medição".into()],
        token_count: 9,
        content_hash: vec![0xab; 32].into(),
        table_header: "| dia | nível |".into(),
    }
}

fn uploaded(body: Body) -> DocumentUploaded {
    DocumentUploaded {
        filename: "rio.txt".into(),
        content_type: "text/plain".into(),
        body: Some(body),
        external_id: "crm-17".into(),
        collection: "handbooks".into(),
        metadata_json: r#"{"author":"Ana"}"#.into(),
        ttl_seconds: 86_400,
        sha256: vec![0xcd; 32].into(),
    }
}

/// One payload of each kind. The match has no wildcard, so a new kind does not compile without one.
fn payloads() -> Vec<(&'static str, &'static str, Payload)> {
    let extract = ExtractRequested {
        object_key: "t/acme/originals/0190a5b2".into(),
        filename: "rio.pdf".into(),
        content_type: "application/pdf".into(),
        size: 20_480,
        sha256: vec![0xef; 32].into(),
        chunking: Some(ChunkSettings { max_tokens: 256, overlap_tokens: 16, tokenizer: "o200k_base".into() }),
        space: 4,
    };
    let cut = ChunksCut {
        run: RUN.into(),
        batch: 1,
        chunks: vec![chunk()],
        space: 4,
        title: "rio.pdf".into(),
        language: "pt".into(),
    };
    let embedded = ChunksEmbedded {
        run: RUN.into(),
        batch: 1,
        chunks: vec![EmbeddedChunk { chunk: Some(chunk()), vector_f16: vec![0x00, 0x3c, 0x00, 0xbc].into() }],
        space: 4,
        language: "pt".into(),
    };
    let result = IntakeResult {
        event_id: "evt-1".into(),
        event_source: "crm-export".into(),
        status: IntakeStatus::Accepted.into(),
        document: DOCUMENT.into(),
        version: 3,
        error_code: "too_large".into(),
        error_message: "the file is larger than 1 MiB".into(),
        entry_id: "1700000000000-0".into(),
    };
    let dead = DeadLetter {
        stage: "embed".into(),
        stream: "riacho:{0}:embed:bulk".into(),
        entry_id: "1700000000000-0".into(),
        reason_code: "poison".into(),
        message: "the entry ended its process each time it ran".into(),
        attempts: 4,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        original: vec![1, 2, 3].into(),
        time: Some(Timestamp { seconds: 1_700_000_001, nanos: 0 }),
    };
    let claim = ClaimCheck {
        object_key: "t/acme/claims/x".into(),
        size: 300_000,
        uncompressed_size: 900_000,
        sha256: vec![0x11; 32].into(),
    };
    let compressed =
        CompressedPayload { zstd: vec![0x28, 0xb5, 0x2f, 0xfd].into(), uncompressed_size: 2_048 };
    let all = [
        Payload::DocumentUploaded(uploaded(Body::Content(b"O rio subiu.".to_vec().into()))),
        Payload::DocumentUploaded(uploaded(Body::ObjectKey("t/acme/producers/rio.txt".into()))),
        Payload::ExtractRequested(extract),
        Payload::ChunksCut(cut),
        Payload::ChunksEmbedded(embedded),
        Payload::IntakeResult(result),
        Payload::DeadLetter(dead),
        Payload::Compressed(compressed),
        Payload::ClaimCheck(claim),
    ];
    let named = |payload: Payload| {
        let (file, kind) = match &payload {
            Payload::DocumentUploaded(d) if matches!(d.body, Some(Body::ObjectKey(_))) => {
                ("document_uploaded_object", "DocumentUploaded")
            }
            Payload::DocumentUploaded(_) => ("document_uploaded_content", "DocumentUploaded"),
            Payload::ExtractRequested(_) => ("extract_requested", "ExtractRequested"),
            Payload::ChunksCut(_) => ("chunks_cut", "ChunksCut"),
            Payload::ChunksEmbedded(_) => ("chunks_embedded", "ChunksEmbedded"),
            Payload::IntakeResult(_) => ("intake_result", "IntakeResult"),
            Payload::DeadLetter(_) => ("dead_letter", "DeadLetter"),
            Payload::Compressed(_) => ("compressed_payload", "CompressedPayload"),
            Payload::ClaimCheck(_) => ("claim_check", "ClaimCheck"),
        };
        (file, kind, payload)
    };
    all.map(named).into()
}

#[test]
fn the_bytes_of_every_event_stay() {
    for (file, kind, payload) in payloads() {
        check(file, &envelope(kind, payload));
    }
    let manifest = Manifest {
        chunks: vec![Chunk { text: String::new(), ..chunk() }],
        title: "rio.pdf".into(),
        language: "pt".into(),
    };
    check("manifest", &manifest);
}

#[test]
fn every_golden_file_belongs_to_an_event() {
    let mut known: Vec<String> = payloads().iter().map(|(file, ..)| format!("{file}.hex")).collect();
    known.push("manifest.hex".into());
    for entry in fs::read_dir(path("manifest").parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name} is checked by no test");
    }
}

#[test]
fn fields_of_a_newer_writer_are_no_error() {
    let (_, kind, payload) = payloads().remove(0);
    let known = envelope(kind, payload);
    let mut bytes = known.encode_to_vec();
    // Field 500, a varint: unknown to this build.
    bytes.extend([0xa0, 0x1f, 0x01]);
    assert!(Envelope::decode(bytes.as_slice()).unwrap() == known);
}
