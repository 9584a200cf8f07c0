//! `riacho status [ID]`: a document's state, or the deployment's.

use serde_json::{Value, json};

use crate::{cli, client::Client, commands::Context, output::table};

pub(super) async fn run(context: &Context, arguments: cli::Status) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server, &context.data_dir())?;
    match arguments.id {
        Some(id) => {
            let status: Value = client
                .get(&format!("/api/v1/documents/{id}/status"))
                .await
                .map_err(crate::client::Error::into_failure)?;
            context.output.result(&status, || document_text(&status));
        }
        None => deployment(context, &client).await?,
    }
    Ok(())
}

async fn deployment(context: &Context, client: &Client) -> anyhow::Result<()> {
    let health = client.get_any_status("/health").await.map_err(crate::client::Error::into_failure)?;
    let queue: Value = client.get("/api/v1/queue/info").await.map_err(crate::client::Error::into_failure)?;
    context.output.result(&json!({ "health": health, "queue": queue }), || {
        format!("{}\n\n{}\n\n{}", health_text(&health), stages_text(&queue), counts_text(&queue))
    });
    Ok(())
}

fn health_text(health: &Value) -> String {
    let rows = health["dependencies"].as_object().into_iter().flatten().map(|(name, dependency)| {
        let latency =
            dependency["latency_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let text = |key: &str| dependency[key].as_str().unwrap_or_default().to_owned();
        vec![name.clone(), text("status"), latency, text("error")]
    });
    let status = health["status"].as_str().unwrap_or("unknown");
    format!("{status}\n\n{}", table(&["server", "status", "latency", "error"], rows))
}

const STAGE_COLUMNS: [&str; 7] =
    ["stage", "backlog", "lag", "pending", "retrying", "consumers", "oldest_age_seconds"];

/// Since when a stage is paused and by whom, or nothing.
pub(super) fn paused(stage: &Value) -> String {
    match (stage["paused"]["since"].as_str(), stage["paused"]["by"].as_str()) {
        (Some(since), Some(by)) => format!("paused since {since} by {by}"),
        _ => String::new(),
    }
}

pub(super) fn stages_text(queue: &Value) -> String {
    let rows = queue["stages"].as_array().into_iter().flatten();
    let header = [&STAGE_COLUMNS[..], &[""]].concat();
    let figures = |stage: &Value| STAGE_COLUMNS.map(|column| cell(&stage[column])).to_vec();
    table(&header, rows.map(|stage| [figures(stage), vec![paused(stage)]].concat()))
}

pub(super) fn counts_text(queue: &Value) -> String {
    let counts = queue["documents"].as_object().into_iter().flatten();
    let rows = counts.map(|(state, count)| vec![state.clone(), cell(count)]);
    let dead = vec!["dead letters".to_owned(), cell(&queue["dead_letters"])];
    table(&["documents", ""], rows.chain([dead]))
}

/// A value without quotes, and a hyphen where there is none.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn document_text(status: &Value) -> String {
    let mut lines =
        vec![format!("{}  version {}  {}", cell(&status["id"]), status["version"], cell(&status["state"]))];
    let progress = status["progress"].as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    lines.extend(progress.map(|(name, value)| format!("{name}  {}", cell(value))));
    if let (Some(detail), Some(since)) =
        (status["waits"]["detail"].as_str(), status["waits"]["since"].as_str())
    {
        lines.push(format!("since {since}: {detail}"));
    }
    if let (Some(code), Some(message)) =
        (status["error"]["code"].as_str(), status["error"]["message"].as_str())
    {
        lines.push(format!("{code}: {message}"));
    }
    lines.extend(status["notice"].as_str().map(str::to_owned));
    lines.extend(status["fallback"].as_str().map(str::to_owned));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_document_says_why() {
        let status = json!({ "id": "i", "version": 1, "state": "failed",
                             "progress": { "pages_done": 2, "pages_total": null },
                             "error": { "code": "encrypted", "message": "a password is needed" } });
        assert_eq!(
            document_text(&status),
            "i  version 1  failed\npages_done  2\nencrypted: a password is needed"
        );
        let notice = "2 of 9 pages have no text: 3 and 4 (the page is damaged)";
        let status = json!({ "id": "i", "version": 1, "state": "ready", "notice": notice });
        assert_eq!(document_text(&status), format!("i  version 1  ready\n{notice}"));
    }

    #[test]
    fn stages_and_counts_are_tables() {
        let queue = json!({ "dead_letters": 1, "documents": { "ready": 20 },
                            "stages": [{ "stage": "embed", "backlog": 7, "lag": null }] });
        assert!(
            stages_text(&queue).ends_with("embed  7        -    -        -         -          -"),
            "{}",
            stages_text(&queue)
        );
        assert_eq!(counts_text(&queue), "documents\nready         20\ndead letters  1");
    }
}
