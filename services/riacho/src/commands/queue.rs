//! `riacho queue info|health|stage`: the pipeline at work, as the gateway tells of it.

use serde_json::Value;

use super::status;
use crate::{
    cli::QueueCommand,
    client::{Client, Error},
    commands::Context,
    exit::{Failure, Kind},
    output::table,
};

pub(super) async fn run(context: &Context, command: QueueCommand) -> anyhow::Result<()> {
    match command {
        QueueCommand::Info { server } => {
            let client = Client::new(&server, &context.data_dir())?;
            let queue: Value = client.get("/api/v1/queue/info").await.map_err(Error::into_failure)?;
            context.output.result(&queue, || {
                format!("{}\n\n{}", status::stages_text(&queue), status::counts_text(&queue))
            });
            Ok(())
        }
        QueueCommand::Health { server } => {
            let client = Client::new(&server, &context.data_dir())?;
            let health: Value = client.get("/api/v1/queue/health").await.map_err(Error::into_failure)?;
            context.output.result(&health, || health_text(&health));
            // A stage that somebody paused is no failure.
            if health["status"] == "unhealthy" { Err(Failure::silent(Kind::Failed)) } else { Ok(()) }
        }
        QueueCommand::Stage { server, stage } => {
            let client = Client::new(&server, &context.data_dir())?;
            let path = format!("/api/v1/queue/stages/{stage}");
            let detail: Value = client.get(&path).await.map_err(Error::into_failure)?;
            context.output.result(&detail, || stage_text(&detail));
            Ok(())
        }
    }
}

fn health_text(health: &Value) -> String {
    let reasons = health["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut lines = vec![health["status"].as_str().unwrap_or("unknown").to_owned()];
    lines.extend(reasons.map(str::to_owned));
    lines.join("\n")
}

const LANE: [&str; 7] = ["partition", "lane", "backlog", "lag", "pending", "retrying", "oldest_age_seconds"];
const CONSUMER: [&str; 4] = ["name", "state", "pending", "idle_seconds"];

fn stage_text(detail: &Value) -> String {
    let rows = |key: &str, columns: &[&str]| {
        let all = detail[key].as_array().cloned().unwrap_or_default();
        let row = |one: &Value| columns.iter().map(|column| status::cell(&one[column])).collect::<Vec<_>>();
        all.iter().map(row).collect::<Vec<_>>()
    };
    let mut text = table(&LANE, rows("lanes", &LANE));
    if let Some(pause) = Some(status::paused(detail)).filter(|pause| !pause.is_empty()) {
        text = format!("{pause}\n\n{text}");
    }
    match detail["consumer_list"].is_null() {
        true => text,
        false => format!("{text}\n\n{}", table(&CONSUMER, rows("consumer_list", &CONSUMER))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_is_told_by_lane_and_by_consumer_where_they_are_known() {
        let mut detail = json!({
            "paused": { "since": "2026-01-01T00:00:00Z", "by": "cli:me", "reason": "" },
            "lanes": [{ "partition": 0, "lane": "bulk", "backlog": 7, "lag": null }], "consumer_list": null,
        });
        let text = stage_text(&detail);
        assert!(text.starts_with("paused since 2026-01-01T00:00:00Z by cli:me\n\npartition"), "{text}");
        assert!(text.lines().count() == 4 && text.contains("bulk"), "{text}");
        detail["paused"] = Value::Null;
        detail["consumer_list"] =
            json!([{ "name": "host-1-x", "state": "alive", "pending": 2, "idle_seconds": 0.5 }]);
        let text = stage_text(&detail);
        assert!(text.starts_with("partition") && text.ends_with("host-1-x  alive  2        0.5"), "{text}");
    }
}
