//! Sessions of the page: signing in with a key, and what a cookie is good for.

use reqwest::{Method, RequestBuilder, Response};
use riacho_ingest_gateway::Config;
use serde_json::{Value, json};

use crate::fixture::{Gateway, json, problem};

const SESSION: &str = "/api/v1/session";

/// A signed-in browser, as far as the server sees it.
struct Browser<'a> {
    gateway: &'a Gateway,
    cookie: String,
    csrf: String,
}

impl Gateway {
    fn sign_in(&self, key: &str) -> RequestBuilder {
        self.anonymous(Method::POST, SESSION).header("riacho-csrf", "new").json(&json!({"key": key}))
    }

    async fn browser(&self, key: &str) -> Browser<'_> {
        let response = self.sign_in(key).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let cookie = set_cookie(&response);
        let body: Value = response.json().await.unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Browser { gateway: self, cookie, csrf: body["csrf"].as_str().unwrap().to_owned() }
    }
}

impl Browser<'_> {
    /// A request without the token.
    fn plain(&self, method: Method, path: &str) -> RequestBuilder {
        self.gateway.anonymous(method, path).header("cookie", &self.cookie)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.plain(method, path).header("riacho-csrf", &self.csrf)
    }
}

fn set_cookie(response: &Response) -> String {
    response.headers()["set-cookie"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_signs_in_with_a_key_may_do_what_the_key_may_until_signing_out() {
    let gateway = Gateway::start().await;
    let response = gateway.sign_in(&gateway.deployment.key).send().await.unwrap();
    let cookie = set_cookie(&response);
    assert!(cookie.contains("; HttpOnly; SameSite=Strict;") && !cookie.contains("Secure"), "{cookie}");
    assert!(!cookie.contains(&gateway.deployment.key));
    let over_tls = gateway.sign_in(&gateway.deployment.key).header("x-forwarded-proto", "https");
    let secure = set_cookie(&over_tls.send().await.unwrap());
    assert!(secure.starts_with("__Host-riacho_session=") && secure.ends_with("; Secure"), "{secure}");
    // Over HTTPS only the cookie counts that nobody but this host can have set.
    let pair = secure.split(';').next().unwrap();
    let look = |cookie: &str| {
        let look = gateway.anonymous(Method::GET, SESSION).header("cookie", cookie);
        look.header("x-forwarded-proto", "https").send()
    };
    assert_eq!(look(pair).await.unwrap().status(), 200);
    assert_eq!(look(pair.strip_prefix("__Host-").unwrap()).await.unwrap().status(), 204);

    let browser = gateway.browser(&gateway.deployment.key).await;
    let who = json(browser.plain(Method::GET, SESSION), 200).await;
    assert_eq!(
        (&who["tenant"], &who["scopes"]),
        (&json!(gateway.deployment.tenant), &json!(["admin", "operator"]))
    );
    assert_eq!(who["csrf"], browser.csrf);
    json(browser.plain(Method::GET, "/api/v1/documents"), 200).await;
    json(browser.request(Method::POST, "/api/v1/documents?filename=a.txt").body("text"), 202).await;

    let left = browser.request(Method::DELETE, SESSION).send().await.unwrap();
    assert_eq!(left.status(), 204);
    assert!(set_cookie(&left).contains("Max-Age=0"));
    problem(browser.plain(Method::GET, "/api/v1/documents"), 401, "unauthorized").await;
    assert_eq!(
        browser.plain(Method::GET, SESSION).send().await.unwrap().status(),
        204,
        "nobody is signed in"
    );
}

#[tokio::test]
async fn a_request_that_changes_something_needs_the_sessions_own_token() {
    let gateway = Gateway::start().await;
    let (one, other) =
        (gateway.browser(&gateway.deployment.key).await, gateway.browser(&gateway.deployment.key).await);
    for method in [Method::POST, Method::DELETE] {
        let path = if method == Method::POST { "/api/v1/documents?filename=a.txt" } else { SESSION };
        problem(one.plain(method.clone(), path).body("text"), 403, "forbidden").await;
        problem(one.plain(method, path).header("riacho-csrf", &other.csrf).body("text"), 403, "forbidden")
            .await;
    }
    assert_eq!(json(one.plain(Method::GET, "/api/v1/documents"), 200).await["documents"], json!([]));
    // Signing somebody in from a page of another origin is refused as well: it cannot send the header.
    let without = gateway.anonymous(Method::POST, SESSION).json(&json!({"key": gateway.deployment.key}));
    problem(without, 403, "forbidden").await;
    let asked = gateway
        .anonymous(Method::OPTIONS, "/api/v1/documents")
        .header("origin", "https://elsewhere.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "riacho-csrf");
    let allowed = asked.send().await.unwrap();
    let allowed = allowed.headers().get("access-control-allow-headers").map(|names| names.to_str().unwrap());
    assert!(!allowed.unwrap_or_default().contains("riacho-csrf"), "{allowed:?}");
}

#[tokio::test]
async fn a_page_that_shows_an_earlier_session_reads_nothing_of_the_one_that_is_signed_in_now() {
    let gateway = Gateway::start().await;
    let (earlier, now) =
        (gateway.browser(&gateway.deployment.key).await, gateway.browser(&gateway.deployment.key).await);
    let documents = "/api/v1/documents";
    json(now.request(Method::GET, documents), 200).await;
    let stale = || now.plain(Method::GET, documents).header("riacho-csrf", &earlier.csrf);
    problem(stale(), 401, "unauthorized").await;
    // A link to an original carries no header, and a program's key stands for itself.
    json(now.plain(Method::GET, documents), 200).await;
    json(stale().bearer_auth(&gateway.deployment.key), 200).await;
}

#[tokio::test]
async fn of_many_sessions_of_a_key_the_oldest_ends() {
    let gateway = Gateway::start().await;
    let key = &gateway.deployment.key;
    let status = async |browser: &Browser<'_>| {
        browser.plain(Method::GET, SESSION).send().await.unwrap().status().as_u16()
    };
    let (first, second) = (gateway.browser(key).await, gateway.browser(key).await);
    // Who signs out makes room again.
    second.request(Method::DELETE, SESSION).send().await.unwrap();
    let mut others = Vec::new();
    for _ in 0..19 {
        others.push(gateway.browser(key).await);
    }
    assert_eq!(status(&first).await, 200);
    let last = gateway.browser(key).await;
    assert_eq!(status(&first).await, 204);
    for browser in others.iter().chain([&last]) {
        assert_eq!(status(browser).await, 200);
    }
}

#[tokio::test]
async fn a_session_ends_with_its_key_and_after_its_time() {
    let soon = Config { key_cache_seconds: 0, ..Config::default() };
    let gateway = Gateway::with_config(soon).await;
    let admin = gateway.browser(&gateway.deployment.key).await;
    let new = json!({"name": "reader", "scopes": ["documents:read"]});
    let made = json(admin.request(Method::POST, "/api/v1/keys").json(&new), 201).await;
    let reader = gateway.browser(made["secret"].as_str().unwrap()).await;
    json(reader.plain(Method::GET, "/api/v1/documents"), 200).await;
    problem(reader.request(Method::POST, "/api/v1/documents?filename=a.txt").body("x"), 403, "forbidden")
        .await;
    let key = format!("/api/v1/keys/{}", made["key"]["id"].as_str().unwrap());
    assert_eq!(admin.request(Method::DELETE, &key).send().await.unwrap().status(), 204);
    problem(reader.plain(Method::GET, "/api/v1/documents"), 401, "unauthorized").await;
    problem(gateway.sign_in(made["secret"].as_str().unwrap()), 401, "unauthorized").await;

    let over = Config { session_seconds: 1, ..Config::default() };
    let gateway = Gateway::with_config(over).await;
    let browser = gateway.browser(&gateway.deployment.key).await;
    riacho_testkit::eventually(|| async {
        match browser.plain(Method::GET, SESSION).send().await.unwrap().status().as_u16() {
            204 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn while_redis_is_away_nobody_is_signed_in_and_keys_go_on() {
    let gateway = Gateway::start().await;
    let browser = gateway.browser(&gateway.deployment.key).await;
    gateway.deployment.redis().stop();
    problem(browser.plain(Method::GET, "/api/v1/documents"), 503, "unavailable").await;
    json(gateway.get("/api/v1/documents"), 200).await;
}
