//! The page for people, at `/`: files of the folder `page`, which stand in the binary. It loads nothing from anywhere else, and
//! all that it shows comes from the API.

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::problem::Problem;

/// Scripts, styles and connections of its own only; no inline script, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    content: &'static str,
}

macro_rules! assets {
    ($($path:literal as $kind:literal),* $(,)?) => {
        &[$(Asset { path: $path, kind: $kind, content: include_str!(concat!("../../page/", $path)) }),*]
    };
}

const ASSETS: &[Asset] = assets! {
    "index.html" as "text/html; charset=utf-8",
    "style.css" as "text/css; charset=utf-8",
    "icon.svg" as "image/svg+xml",
    "main.js" as "text/javascript; charset=utf-8",
    "api.js" as "text/javascript; charset=utf-8",
    "chart.js" as "text/javascript; charset=utf-8",
    "dom.js" as "text/javascript; charset=utf-8",
    "format.js" as "text/javascript; charset=utf-8",
    "live.js" as "text/javascript; charset=utf-8",
    "renew.js" as "text/javascript; charset=utf-8",
    "uploads.js" as "text/javascript; charset=utf-8",
    "views/document.js" as "text/javascript; charset=utf-8",
    "views/documents.js" as "text/javascript; charset=utf-8",
    "views/letters.js" as "text/javascript; charset=utf-8",
    "views/operate.js" as "text/javascript; charset=utf-8",
    "views/overview.js" as "text/javascript; charset=utf-8",
    "views/search.js" as "text/javascript; charset=utf-8",
    "views/secret.js" as "text/javascript; charset=utf-8",
    "views/signin.js" as "text/javascript; charset=utf-8",
    "views/tenant.js" as "text/javascript; charset=utf-8",
    "views/webhooks.js" as "text/javascript; charset=utf-8",
};

/// `/` and the files that it asks for.
pub(super) fn router() -> Router {
    Router::new().route("/", get(|headers: HeaderMap| async move { answer("index.html", &headers) })).route(
        "/page/{*path}",
        get(|Path(path): Path<String>, headers: HeaderMap| async move { answer(&path, &headers) }),
    )
}

fn answer(path: &str, request: &HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return Problem::no_route().into_response();
    };
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(asset.content)[..16]));
    // Asked for anew each time, so that a page of one version never runs with scripts of another.
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, etag.as_str()),
    ];
    let known = request.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    match known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, asset.content).into_response(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served_and_names_only_others_of_it() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut found = Vec::new();
        for directory in [folder.clone(), folder.join("views")] {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    found.push(path.strip_prefix(&folder).unwrap().to_string_lossy().into_owned());
                }
            }
        }
        let mut served: Vec<String> = ASSETS.iter().map(|asset| asset.path.to_owned()).collect();
        found.sort();
        served.sort();
        assert_eq!(found, served);
        for asset in ASSETS {
            let foreign = asset.content.replace("http://www.w3.org/", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{}", asset.path);
            assert!(!asset.content.contains("innerHTML"), "{}: texts are set as text", asset.path);
        }
    }
}
