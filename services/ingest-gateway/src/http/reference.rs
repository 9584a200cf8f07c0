//! The OpenAPI document, and a page that people can read, made from it. The page loads nothing from
//! anywhere else and runs no script.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, header},
    routing::get,
};
use serde_json::Value;
use utoipa::openapi::OpenApi;

const STYLE: &str = include_str!("reference.css");
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The methods of a path, in the order in which the page shows them.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// `/openapi.json`, `/docs` and its style.
pub(super) fn router(document: &OpenApi) -> Router {
    let json: Arc<str> = document.to_json().unwrap_or_default().into();
    let page: Arc<str> = page(&serde_json::to_value(document).unwrap_or_default()).into();
    let typed = |kind: &'static str, body: Arc<str>| {
        let headers: [(HeaderName, &'static str); 3] = [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        get(move || async move { (headers, body.to_string()) })
    };
    Router::new()
        .route("/openapi.json", typed("application/json", json))
        .route("/docs", typed("text/html; charset=utf-8", page))
        .route("/docs/style.css", typed("text/css; charset=utf-8", STYLE.into()))
}

fn page(document: &Value) -> String {
    let mut html = String::with_capacity(64 << 10);
    let title = text(&document["info"]["title"]);
    push(
        &mut html,
        &format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
             <title>{title}: API reference</title><link rel=stylesheet href='/docs/style.css'><header><h1>{title}</h1><p>{}</p>\
             <p>Send the API key as <code>Authorization: Bearer KEY</code>. The same as a machine reads it: \
             <a href='/openapi.json'>openapi.json</a></p></header><nav><ul>",
            prose(&document["info"]["description"]),
        ),
    );
    for tag in array(&document["tags"]) {
        push(&mut html, &format!("<li><a href='#{0}'>{0}</a>", text(&tag["name"])));
    }
    push(&mut html, "<li><a href='#shapes'>shapes</a></ul></nav><main>");
    for tag in array(&document["tags"]) {
        let name = text(&tag["name"]);
        push(
            &mut html,
            &format!("<section id='{name}'><h2>{name}</h2><p>{}</p>", prose(&tag["description"])),
        );
        for (path, method, operation) in operations(document) {
            if array(&operation["tags"]).iter().any(|of| of == &tag["name"]) {
                push_operation(&mut html, path, method, operation);
            }
        }
        push(&mut html, "</section>");
    }
    push(&mut html, "<section id=shapes><h2>shapes</h2>");
    for (name, schema) in object(&document["components"]["schemas"]) {
        push(
            &mut html,
            &format!(
                "<article id='shape-{0}'><h3>{0}</h3><p>{1}</p>",
                escape(name),
                prose(&schema["description"])
            ),
        );
        push_fields(&mut html, schema);
        push(&mut html, "</article>");
    }
    push(&mut html, "</section></main></html>");
    html
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &'static str, &Value)> {
    object(&document["paths"]).flat_map(|(path, item)| {
        METHODS
            .into_iter()
            .filter_map(move |method| item.get(method).map(|operation| (path.as_str(), method, operation)))
    })
}

fn push_operation(html: &mut String, path: &str, method: &str, operation: &Value) {
    push(
        html,
        &format!(
            "<article><h3><span class='method {method}'>{method}</span> <code>{}</code></h3><p><strong>{}</strong></p><p>{}</p>",
            escape(path),
            prose(&operation["summary"]),
            prose(&operation["description"]),
        ),
    );
    let parameters = array(&operation["parameters"]);
    if !parameters.is_empty() {
        push(html, "<table><caption>Parameters</caption>");
        for parameter in parameters {
            let required = if parameter["required"] == true { "required" } else { "" };
            push_row(
                html,
                &[
                    &format!("<code>{}</code> {required}", text(&parameter["name"])),
                    &format!("{}, {}", text(&parameter["in"]), kind(&parameter["schema"])),
                    &prose(&parameter["description"]),
                ],
            );
        }
        push(html, "</table>");
    }
    push_content(html, "Body", &operation["requestBody"]["content"]);
    push(html, "<table><caption>Answers</caption>");
    for (status, response) in object(&operation["responses"]) {
        let shapes: Vec<String> = object(&response["content"])
            .map(|(media, of)| format!("{} <small>{}</small>", kind(&of["schema"]), escape(media)))
            .collect();
        push_row(
            html,
            &[
                &format!("<code>{}</code>", escape(status)),
                &prose(&response["description"]),
                &shapes.join("<br>"),
            ],
        );
    }
    push(html, "</table></article>");
}

fn push_content(html: &mut String, caption: &str, content: &Value) {
    if content.is_object() {
        push(html, &format!("<table><caption>{caption}</caption>"));
        for (media, of) in object(content) {
            push_row(html, &[&format!("<code>{}</code>", escape(media)), &kind(&of["schema"])]);
        }
        push(html, "</table>");
    }
}

fn push_fields(html: &mut String, schema: &Value) {
    push(html, "<table>");
    let required = array(&schema["required"]);
    for (name, field) in object(&schema["properties"]) {
        let mark = if required.iter().any(|of| of == name.as_str()) { "always" } else { "" };
        push_row(
            html,
            &[&format!("<code>{}</code> {mark}", escape(name)), &kind(field), &prose(&field["description"])],
        );
    }
    for value in array(&schema["enum"]) {
        push_row(html, &[&format!("<code>{}</code>", text(value))]);
    }
    push(html, "</table>");
}

fn push_row(html: &mut String, cells: &[&str]) {
    push(html, "<tr>");
    for cell in cells {
        push(html, &format!("<td>{cell}"));
    }
}

/// The type of a schema, with a link where it has a shape of its own.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href='#shape-{0}'>{0}</a>", escape(name));
    }
    let alternatives = ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|list| array(&schema[list]));
    let kinds: Vec<String> = alternatives.filter(|of| of["type"] != "null").map(kind).collect();
    if !kinds.is_empty() {
        return kinds.join(" or ");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("list of {}", kind(&schema["items"])),
        Value::String(name) => escape(name),
        Value::Array(names) => {
            names.iter().filter(|name| *name != "null").map(text).collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// Text with what stands in backquotes as code.
fn prose(value: &Value) -> String {
    let escaped = text(value);
    let mut html = String::with_capacity(escaped.len());
    for (index, part) in escaped.split('`').enumerate() {
        match index % 2 {
            0 => html.push_str(part),
            _ => push(&mut html, &format!("<code>{part}</code>")),
        }
    }
    html
}

fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

fn push(html: &mut String, text: &str) {
    html.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_shape_and_loads_nothing_foreign() {
        let document = serde_json::to_value(super::super::openapi()).unwrap_or_default();
        let html = page(&document);
        for (path, method, _) in operations(&document) {
            assert!(
                html.contains(&format!("<span class='method {method}'>{method}</span> <code>{path}</code>")),
                "{method} {path}"
            );
        }
        for (name, _) in object(&document["components"]["schemas"]) {
            assert!(html.contains(&format!("id='shape-{name}'")), "{name}");
        }
        assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script"));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(prose(&Value::from("a `<b>` & 'c'")), "a <code>&lt;b&gt;</code> &amp; &#39;c&#39;");
    }
}
