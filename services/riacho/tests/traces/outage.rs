//! A collector that takes nothing.

use riacho_testkit::{collector::Collector, within};

use crate::{
    five::{Five, client_span},
    support::cluster::PATIENCE,
};

#[tokio::test]
async fn a_collector_that_is_away_or_hangs_costs_no_document_and_no_stop() {
    let collector = Collector::start().await.unwrap();
    collector.hangs();
    let mut five = Five::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        // Far longer than a stop may take.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"),
        ("RIACHO__TRACES__QUEUE", "4"),
    ])
    .await;
    let (_, _, header) = client_span(0xb1, true);
    let mut ids = Vec::new();
    for number in 0..8 {
        let text = format!("# Log {number}\n\nThe barge number {number} passed.\n");
        ids.push(five.upload(&format!("log-{number}.md"), &header, text).await);
    }
    for id in &ids {
        five.is(id, "ready").await;
    }
    let metrics =
        five.client.get(format!("{}/metrics", five.url)).send().await.unwrap().text().await.unwrap();
    assert!(count_of(&metrics, "queue_full") > 0.0, "{metrics}");
    let logs = five.stop().await;
    assert!(logs[0].contains("traces were not taken in time"), "{}", logs[0]);

    // Away: nothing listens there any more. One line says so, however many exports fail.
    drop(collector);
    five.cluster.set("OTEL_EXPORTER_OTLP_TIMEOUT", "1");
    five.begin().await;
    let id = five.upload("last.md", &header, "# Last\n\nThe last barge passed.\n").await;
    five.is(&id, "ready").await;
    within(PATIENCE, || async {
        let metrics = five.client.get(format!("{}/metrics", five.url)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        if count_of(&metrics, "failed") > 4.0 { Ok(()) } else { Err(metrics) }
    })
    .await;
    let logs = five.stop().await;
    assert_eq!(logs[0].matches("the collector takes no traces").count(), 1, "{}", logs[0]);
}

/// How many spans came to an outcome.
fn count_of(metrics: &str, outcome: &str) -> f64 {
    let series = format!("riacho_trace_spans_total{{outcome=\"{outcome}\"}}");
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok()).unwrap_or(0.0)
}
