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
        format!("{}\n\n{}", health_text(&health), fields_text(&queue))
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

fn document_text(status: &Value) -> String {
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!("{}  version {}  {}", text("id"), status["version"], text("state"))];
    lines.push(fields_text(&status["progress"]));
    if let (Some(code), Some(message)) =
        (status["error"]["code"].as_str(), status["error"]["message"].as_str())
    {
        lines.push(format!("{code}: {message}"));
    }
    lines.join("\n")
}

/// The fields of an object, one a line; objects in it by their path.
fn fields_text(value: &Value) -> String {
    let mut rows = Vec::new();
    collect(String::new(), value, &mut rows);
    table(&[], rows).trim_start_matches('\n').to_owned()
}

fn collect(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| collect(below(key), value, rows)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(index, item)| {
                let name = ["name", "stage", "state"].iter().find_map(|key| item[key].as_str());
                collect(below(&name.map_or_else(|| index.to_string(), str::to_owned)), item, rows);
            });
        }
        Value::Null => {}
        Value::String(text) => rows.push(vec![path, text.clone()]),
        other => rows.push(vec![path, other.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_document_says_why() {
        let status = json!({ "id": "i", "version": 1, "state": "failed", "progress": { "pages_done": 2 },
                             "error": { "code": "encrypted", "message": "a password is needed" } });
        assert_eq!(
            document_text(&status),
            "i  version 1  failed\npages_done  2\nencrypted: a password is needed"
        );
    }
}
