//! A document's story in the logs of all services.

use std::collections::{BTreeMap, BTreeSet};

use riacho_testkit::openai::Answer;
use serde_json::json;

use crate::{
    SERVICES,
    five::{Five, client_span},
    support::story::{self, Line},
};

/// What is said of each step: which service says it, and with which fields.
type Said = BTreeMap<String, (String, BTreeSet<String>)>;

fn said(story: &[Line]) -> Said {
    story
        .iter()
        .map(|line| {
            // A webhook's last attempt may fall into the stop of the one that it goes to, which then answers no status.
            let is_same = |name: &&String| !(line.step.starts_with("webhook") && *name == "status");
            (line.step.clone(), (line.service.clone(), line.fields.keys().filter(is_same).cloned().collect()))
        })
        .collect()
}

/// Runs documents of each fate and gives the stories of them, whose steps are checked.
async fn stories(format: &str) -> Vec<Vec<Line>> {
    let mut five = Five::start(&[("RIACHO__LOG__FORMAT", format)]).await;
    five.webhook(&format!("{}/nowhere", five.url)).await;
    let (_, _, header) = client_span(0xc1, true);
    let good = five.upload("lock.md", &header, "# Lock\n\nThe lock opens at six.\n").await;
    five.is(&good, "ready").await;
    five.says(&good, "webhook failed").await;
    five.upload("lock.md", &header, "# Lock\n\nThe lock opens at six.\n").await;
    five.provider.script([Answer::Status(500)]);
    let retried = five.upload("quay.md", &header, "# Quay\n\nThe quay is long.\n").await;
    five.is(&retried, "ready").await;
    let broken = five.upload("broken.pdf", &header, &b"%PDF-1.7\nno pages at all"[..]).await;
    five.is(&broken, "failed").await;
    five.provider.refuse_texts_with("hemlock");
    let dead = five.upload("hemlock.md", &header, "# Plants\n\nThe hemlock is poisonous.\n").await;
    five.is(&dead, "failed").await;
    five.provider.normal();
    let replay = json!({ "filter": {} });
    let url = format!("{}/api/v1/queue/dead-letters/replay", five.url);
    let answer = five.client.post(url).json(&replay).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    five.is(&dead, "ready").await;
    let url = format!("{}/api/v1/documents/{retried}", five.url);
    assert_eq!(five.client.delete(url).send().await.unwrap().status(), 204);
    five.purge().await;
    five.says(&retried, "purged").await;
    let logs = five.stop().await;
    let way = ["accepted", "released", "extracted", "embedded", "indexed", "ready"];
    let expected: [(&str, Vec<&str>); 4] = [
        (&good, [&way[..], &["deduplicated"]].concat()),
        (
            &retried,
            vec![
                "accepted",
                "released",
                "extracted",
                "retried",
                "embedded",
                "indexed",
                "ready",
                "deleted",
                "purged",
            ],
        ),
        (&broken, vec!["accepted", "released", "failed", "purged"]),
        (&dead, [&way[..3], &["dead letter", "failed", "redelivered", "released"], &way[2..]].concat()),
    ];
    expected
        .into_iter()
        .map(|(id, steps)| {
            let story = story::of(&logs, id);
            // When a webhook is told has to do with the webhook.
            let seen: Vec<&str> = story
                .iter()
                .map(|line| line.step.as_str())
                .filter(|step| !step.starts_with("webhook"))
                .collect();
            assert_eq!(seen, steps, "{story:#?}");
            assert!(story.iter().all(|line| line.fields["document"] == id), "{story:#?}");
            story
        })
        .collect()
}

#[tokio::test]
async fn a_documents_story_is_one_grep_and_json_and_text_say_the_same() {
    let of_json = stories("json").await;
    let of_text = stories("text").await;
    let known: BTreeSet<&str> = riacho_service::telemetry::FIELDS
        .iter()
        .map(|(name, _)| *name)
        .chain(riacho_service::telemetry::OF_EVERY_LINE)
        .collect();
    for (json, text) in of_json.iter().zip(&of_text) {
        assert_eq!(said(json), said(text));
        for line in json {
            assert!(line.fields.keys().all(|name| known.contains(name.as_str())), "{line:#?}");
            for name in ["tenant", "service", "level", "timestamp", "message", "target"] {
                assert!(!line.fields[name].is_empty(), "{name} of {line:#?}");
            }
        }
    }
    let services: BTreeSet<&str> = of_json.iter().flatten().map(|line| line.service.as_str()).collect();
    assert_eq!(services, SERVICES.into_iter().collect());
    let failed = of_json[2].iter().find(|line| line.step == "failed").unwrap();
    assert!(!failed.fields["reason"].is_empty());
}
