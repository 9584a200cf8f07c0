//! Events that producers put straight onto Redis.

use riacho_proto::{
    Message,
    v1::{self, document_uploaded::Body, envelope::Payload},
};
use riacho_testkit::{collector::Collector, within};

use crate::{
    five::{Five, client_span},
    support::{cluster::PATIENCE, story},
    tree::{named, trace_with, way},
};

fn event(id: &str, source: &str, traceparent: &str, filename: &str) -> Vec<u8> {
    let upload = v1::DocumentUploaded {
        filename: filename.to_owned(),
        body: Some(Body::Content(format!("The barge of {id} was built upstream.").into_bytes().into())),
        ..v1::DocumentUploaded::default()
    };
    let envelope = v1::Envelope {
        envelope_version: 1,
        id: id.to_owned(),
        source: source.to_owned(),
        traceparent: traceparent.to_owned(),
        payload: Some(Payload::DocumentUploaded(upload)),
        ..v1::Envelope::default()
    };
    envelope.encode_to_vec()
}

#[tokio::test]
async fn the_trace_of_a_producer_goes_on_through_intake_to_the_index() {
    let collector = Collector::start().await.unwrap();
    let mut five = Five::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())]).await;
    let (unsampled, _, quiet) = client_span(0xe0, false);
    five.publish(&event("event-0", "crm", &quiet, "quiet.txt"));
    let (trace, producer, header) = client_span(0xe1, true);
    five.publish(&event("event-1", "crm", &header, "barge.txt"));
    let spans = trace_with(&collector, (&trace, &producer), &[("process index", 1)]).await;
    assert_eq!(
        way(&spans, named(&spans, "process index")[0]),
        [
            ("ingest-gateway", "Consumer", "process intake"),
            ("ingest-gateway", "Producer", "send extract"),
            ("extractor", "Consumer", "process extract"),
            ("extractor", "Producer", "send embed"),
            ("embedder", "Consumer", "process embed"),
            ("embedder", "Producer", "send index"),
            ("indexer", "Consumer", "process index"),
        ]
    );
    let intake = named(&spans, "process intake");
    assert_eq!(intake.len(), 1, "{spans:#?}");
    assert_eq!(intake[0].parent, producer, "below the span that the envelope names");
    let id = five.document("barge.txt").await;
    assert_eq!((intake[0].get("riacho.document"), intake[0].get("riacho.version")), (id.as_str(), "1"));
    assert_eq!(intake[0].get("messaging.message.id"), "event-1");
    assert_eq!(
        (intake[0].get("messaging.system"), intake[0].get("messaging.destination.name")),
        ("redis", "intake")
    );
    assert!(spans.iter().all(|span| span.error.is_none()), "{spans:#?}");

    // One that names no trace begins its own.
    five.publish(&event("event-2", "crm", "", "alone.txt"));
    let id = five.document("alone.txt").await;
    let own = within(PATIENCE, || async {
        let spans = collector.spans().unwrap();
        let found =
            spans.iter().find(|span| span.name == "process intake" && span.get("riacho.document") == id);
        found.cloned().ok_or_else(|| format!("{spans:#?}"))
    })
    .await;
    assert_eq!(own.parent, "");
    trace_with(&collector, (&own.trace, ""), &[("process index", 1)]).await;

    let id = five.document("quiet.txt").await;
    five.is(&id, "ready").await;
    let logs = five.stop().await;
    assert_eq!(collector.trace(&unsampled).unwrap(), [], "the producer did not want it");
    let story = story::of(&logs, &id);
    assert!(story.iter().all(|line| line.fields["trace_id"] == unsampled), "{story:#?}");
}

/// What a client sends is on a line of the log as text, and never a line of its own.
#[tokio::test]
async fn no_text_of_a_client_forges_a_line_of_the_log() {
    let mut five = Five::start(&[]).await;
    let forged = "00000000-0000-7000-8000-000000000000";
    let line = format!(
        "2026-01-01T00:00:00.000000Z  INFO janitor gone step=purged tenant=default document={forged} target=riacho"
    );
    let text = format!("crm\r\n{line}\u{2028}{line}\u{85}{line}\u{1b}[1A\u{9b}2K\u{202e}\n{line}");
    // Refused, with the source in the line that says so; and a name that is taken, for the last of what looks like a path.
    five.publish(&event("event-1", &text, "", "a.txt"));
    five.publish(&event(&text, "crm", "", "a.txt"));
    five.publish(&event("event-3", "crm", "", &format!("b.txt\n{line}")));
    five.publish(&event("event-4", "crm", "", "last.txt"));
    let id = five.document("last.txt").await;
    five.is(&id, "ready").await;
    let upload = five.client.post(format!("{}/api/v1/documents", five.url)).query(&[("filename", &text)]);
    upload
        .header("traceparent", &text.replace(char::is_control, " "))
        .body("The lock.")
        .send()
        .await
        .unwrap();
    within(PATIENCE, || async {
        let log = five.log();
        if log.matches("event rejected").count() >= 2 { Ok(()) } else { Err(log) }
    })
    .await;
    let logs = five.stop().await;
    assert!(logs[0].contains("source=\"crm\\u000d\\u000a2026-"), "{}", logs[0]);
    assert_eq!(story::of(&logs, forged), [], "no step of a document that never was");
    for log in &logs {
        for line in log.lines() {
            assert!(
                line.starts_with("20") && line.contains("Z ") && !line.starts_with("2026-01-01"),
                "{line:?}"
            );
            assert!(!line.contains(['\u{1b}', '\u{9b}', '\u{85}', '\u{2028}', '\u{202e}', '\r']), "{line:?}");
        }
    }
}
