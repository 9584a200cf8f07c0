//! Releases by the janitor: each has its place in the trace of its document.

use riacho_testkit::{
    collector::{CollectedSpan, Collector},
    process::Process,
    within,
};

use crate::{
    five::{Five, client_span},
    support::{cluster::PATIENCE, story},
    tree::{named, trace_with, way},
};

/// The spans of a document's trace once it is indexed. The run that led there came of a release by the janitor, below the
/// span of the request.
async fn released_by_the_janitor(
    collector: &Collector,
    (trace, client): (&str, &str),
    id: &str,
) -> Vec<CollectedSpan> {
    let wanted = [("process index", 1), ("postgres index", 1), ("POST /api/v1/documents", 1)];
    let spans = trace_with(collector, (trace, client), &wanted).await;
    let index = named(&spans, "process index")[0];
    let way = way(&spans, index);
    assert_eq!(
        way[..3],
        [
            ("ingest-gateway", "Server", "POST /api/v1/documents"),
            ("janitor", "Producer", "send extract"),
            ("extractor", "Consumer", "process extract"),
        ],
        "{spans:#?}"
    );
    let sent: Vec<_> =
        named(&spans, "send extract").into_iter().filter(|span| span.service == "janitor").collect();
    assert!(sent.iter().all(|span| span.get("riacho.document") == id), "{sent:#?}");
    assert!(sent.iter().any(|span| span.error.is_none()), "{sent:#?}");
    spans
}

/// Waits until the gateways know that the tenant has as much in flight as it may.
async fn is_held(five: &Five) {
    within(PATIENCE, || async {
        let rows = five.cluster.database.run("SELECT held_by FROM tenants WHERE id = 'default'");
        let held_by = rows[0][0].clone();
        if held_by.as_deref() == Some("tenant") {
            Ok(())
        } else {
            Err(format!("{held_by:?}\n{}", five.log()))
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_janitor_releases_goes_on_in_the_documents_trace() {
    let collector = Collector::start().await.unwrap();
    let mut five = Five::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        ("RIACHO__JANITOR__IN_FLIGHT_PER_TENANT", "1"),
        ("RIACHO__JANITOR__STALE_RELEASING_SECONDS", "1"),
    ])
    .await;
    let told = async |five: &Five, id: &str, reason: &str| {
        five.tells(id, |line| {
            line.step == "released" && line.service == "janitor" && line.fields["reason"] == reason
        })
        .await;
    };

    // The gateway cannot send it: Redis is away for it alone.
    five.gateway_to_redis.refuse();
    let (trace, client, header) = client_span(0xf1, true);
    let stale = five.upload("stale.md", &header, "# Stale\n\nThe gauge is stale.\n").await;
    five.is(&stale, "ready").await;
    told(&five, &stale, "stale").await;
    released_by_the_janitor(&collector, (&trace, &client), &stale).await;
    five.gateway_to_redis.pass();

    // Nobody reads, and Redis loses what stands on the stream.
    assert!(five.processes[1].stop().await.unwrap().success());
    let (trace, client, header) = client_span(0xf2, true);
    let lost = five.upload("lost.md", &header, "# Lost\n\nThe gauge is lost.\n").await;
    five.is(&lost, "extracting").await;
    five.cluster.redis.command(&["FLUSHALL"]);
    told(&five, &lost, "lost").await;

    // While it is in flight, its tenant has as much there as it may.
    is_held(&five).await;
    let (barge, skipper, header) = client_span(0xf3, true);
    let waiting = five.upload("barge.md", &header, "# Barge\n\nThe barge waits.\n").await;
    five.is(&waiting, "waiting").await;
    five.processes[1] = five.cluster.spawn(&["extractor"]);
    five.is(&lost, "ready").await;
    let spans = released_by_the_janitor(&collector, (&trace, &client), &lost).await;
    let server = named(&spans, "POST /api/v1/documents")[0];
    let sent = named(&spans, "send extract");
    assert!(sent.len() >= 2 && sent.iter().all(|span| span.parent == server.id), "side by side: {spans:#?}");

    five.is(&waiting, "ready").await;
    told(&five, &waiting, "waiting").await;
    let spans = released_by_the_janitor(&collector, (&barge, &skipper), &waiting).await;
    let sent = named(&spans, "send extract");
    assert!(sent.iter().all(|span| span.service == "janitor"), "the gateway did not send it: {spans:#?}");
    five.stop().await;
}

#[tokio::test]
async fn what_finds_no_room_on_its_stream_is_not_told_of_as_released_however_often_it_is_tried() {
    let mut five = Five::start(&[("RIACHO__REDIS__STREAM_MAX_BYTES", "4096")]).await;
    // Nobody reads, so that the stream stays full.
    assert!(five.processes[1].stop().await.unwrap().success());
    let (_, _, header) = client_span(0xf4, false);
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(
            five.upload(&format!("{number}.md"), &header, format!("# Gauge\n\nGauge {number}.\n")).await,
        );
    }
    let count =
        |sql: &str| -> u64 { five.cluster.database.run(sql)[0][0].as_ref().unwrap().parse().unwrap() };
    let put_back =
        "SELECT count(*) FROM schedules WHERE task = 'release' AND (last_summary ->> 'put_back')::bigint > 0";
    within(PATIENCE, || async { count(put_back) == 1 }).await;
    let runs = "SELECT coalesce(max(runs), 0) FROM schedules WHERE task = 'release'";
    let first = count(runs);
    within(PATIENCE, || async { count(runs) >= first + 3 }).await;
    let logs: Vec<String> = five.processes.iter().map(Process::log).collect();
    let waiting =
        five.cluster.database.run("SELECT document_id FROM document_versions WHERE state = 'waiting'");
    assert!(waiting.len() > 10, "{waiting:?}");
    for id in waiting.iter().filter_map(|row| row[0].clone()) {
        let story = story::of(&logs, &id);
        assert!(story.iter().all(|line| line.step != "released"), "{story:#?}");
    }
    five.processes[1] = five.cluster.spawn(&["extractor"]);
    for id in &ids {
        five.is(id, "ready").await;
    }
    let logs = five.stop().await;
    for id in &ids {
        let story = story::of(&logs, id);
        assert!(story.iter().any(|line| line.step == "released"), "{story:#?}");
    }
}
