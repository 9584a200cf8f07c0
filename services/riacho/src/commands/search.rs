//! `riacho search QUERY`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    cli::{self, Mode},
    client::Client,
    commands::Context,
    output::{Output, shorten},
};

/// Characters of a hit's text that are shown.
const SHOWN: usize = 280;

pub(super) async fn run(context: &Context, arguments: cli::Search) -> anyhow::Result<()> {
    let client = Client::new(&arguments.server, &context.data_dir())?;
    let mode = match arguments.mode {
        Mode::Hybrid => "hybrid",
        Mode::Vector => "vector",
        Mode::Keyword => "keyword",
    };
    let mut body = json!({ "query": arguments.query.join(" "), "top_k": arguments.top_k, "mode": mode });
    if let Some(collection) = arguments.collection {
        body["collection"] = json!(collection);
    }
    if let Some(filter) = arguments.filter {
        body["filter"] = filter;
    }
    let answer = client.search(&body).await.map_err(crate::client::Error::into_failure)?;
    context.output.result(&answer, || hits_text(context.output, &answer));
    Ok(())
}

/// A hit, as far as people read it.
#[derive(Debug, Deserialize)]
struct Hit {
    #[serde(default)]
    filename: String,
    score: f64,
    #[serde(default)]
    pages: Option<Value>,
    #[serde(default)]
    heading_path: Vec<String>,
    #[serde(default)]
    table_header: Option<String>,
    text: String,
}

/// The hits of an answer for people: document, page, score, headings, and the beginning of the text.
pub(crate) fn hits_text(output: Output, answer: &Value) -> String {
    let hits = answer.get("hits").cloned().unwrap_or_default();
    let hits: Vec<Hit> = serde_json::from_value(hits).unwrap_or_default();
    if hits.is_empty() {
        return "no hits".to_owned();
    }
    let one = |(index, hit): (usize, &Hit)| {
        let mut place = vec![output.bold(&hit.filename)];
        place.extend(pages_text(hit.pages.as_ref()));
        place.push(format!("score {:.4}", hit.score));
        let path = hit.heading_path.join(" > ");
        place.extend((!path.is_empty()).then_some(path));
        let header = hit.table_header.as_ref().map(|header| format!("    {}\n", shorten(header, SHOWN)));
        let (header, text) = (header.unwrap_or_default(), shorten(&hit.text, SHOWN));
        format!("{:>2}. {}\n{header}    {text}", index + 1, place.join("  "))
    };
    hits.iter().enumerate().map(one).collect::<Vec<_>>().join("\n")
}

/// The page, or the first and the last.
fn pages_text(pages: Option<&Value>) -> Option<String> {
    let number = |value: Option<&Value>| value.and_then(Value::as_u64).filter(|page| *page > 0);
    let (first, last) = match pages? {
        Value::Array(pages) => (number(pages.first())?, number(pages.last())?),
        Value::Object(pages) => (number(pages.get("first"))?, number(pages.get("last"))?),
        page => (number(Some(page))?, number(Some(page))?),
    };
    Some(if first == last { format!("page {first}") } else { format!("pages {first}-{last}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_shows_document_page_and_score() {
        let hit = json!({ "filename": "h.pdf", "score": 0.5, "pages": [2, 3], "heading_path": ["A", "B"], "text": "x\ny" });
        let text = hits_text(Output::new(false, false), &json!({ "hits": [hit] }));
        assert!(text.contains("h.pdf  pages 2-3  score 0.5000  A > B\n    x y"), "{text}");
        let hit = json!({ "filename": "h.csv", "score": 0.5, "table_header": "| day |", "text": "| 1 |" });
        let text = hits_text(Output::new(false, false), &json!({ "hits": [hit] }));
        assert!(text.ends_with("score 0.5000\n    | day |\n    | 1 |"), "{text}");
        assert_eq!(hits_text(Output::new(false, false), &json!({ "hits": [] })), "no hits");
    }

    #[test]
    fn a_text_without_pages_shows_none() {
        assert_eq!(pages_text(Some(&json!([]))), None);
        assert_eq!(pages_text(Some(&json!([4]))).as_deref(), Some("page 4"));
        assert_eq!(pages_text(Some(&Value::Null)), None);
    }
}
