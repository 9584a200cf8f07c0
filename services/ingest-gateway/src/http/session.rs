//! Sessions of people who sign in on the page with an API key.
//!
//! The browser keeps a secret in a cookie that no script can read; Redis keeps, under the secret's hash, whose key it stands
//! for. The key itself is kept nowhere, and is looked up again like any other, so that a revoked key ends its sessions.
//!
//! A request that changes something has to carry a token as well, in a header that a page of another origin can neither read
//! nor send: `riacho-csrf` is not among those that CORS allows. One that reads may carry it, and is then answered for that session
//! only: two tabs of a browser have one cookie, and who signs in in one of them has nothing shown under the other's name.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use rand::RngCore;
use riacho_store::Principal;
use riacho_streams::NewSession;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    extract::JsonBody,
    problem::{Problem, ProblemBody},
};
use crate::rates::Counted;

/// The header of the token.
pub(crate) const CSRF: HeaderName = HeaderName::from_static("riacho-csrf");
const COOKIE: &str = "riacho_session";
/// The cookie's name over HTTPS: browsers take one of such a name only from the host itself, and only when it is `Secure`.
const HOST_COOKIE: &str = "__Host-riacho_session";
/// How many sessions of one key there may be; the oldest ends when another begins.
const SESSIONS_OF_KEY: u32 = 20;
/// Bytes of a session's secret.
const SECRET_BYTES: usize = 32;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(begin, look, end))
}

/// What Redis keeps of a session.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key_id: String,
    until: DateTime<Utc>,
}

/// The key to sign in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignIn {
    /// The API key.
    key: String,
}

/// Who is signed in.
#[derive(Debug, Serialize, ToSchema)]
struct SessionBody {
    /// The tenant.
    tenant: String,
    /// The public part of the key.
    key_id: String,
    /// What the key may do.
    scopes: Vec<&'static str>,
    /// What to send as `riacho-csrf` with each request that changes something. A page sends it when it reads as well, and is then answered 401 where
    /// the browser has another session by now.
    csrf: String,
}

impl SessionBody {
    fn new(principal: &Principal, secret: &str) -> Self {
        Self {
            tenant: principal.tenant.to_string(),
            key_id: principal.key_id.clone(),
            scopes: principal.scopes.iter().map(|scope| scope.as_str()).collect(),
            csrf: token(secret),
        }
    }
}

/// Sign in with an API key.
///
/// The answer sets a cookie that stands for the key. The header `riacho-csrf` has to be there, with any value. Programs send the key itself with each request
/// and need no session.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "keys", request_body = SignIn, security(()),
    responses(
        (status = 200, description = "Signed in.", body = SessionBody),
        (status = 401, description = "The key is not known, has expired or was revoked.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Redis is away.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn begin(
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody(SignIn { key }): JsonBody<SignIn>,
) -> Result<Response, Problem> {
    if !headers.contains_key(CSRF) {
        return Err(refused_token());
    }
    let found = app.store().authenticate(key.trim()).await?;
    let principal =
        found.ok_or_else(|| Problem::unauthorized("the key is not known, has expired or was revoked"))?;
    let limits = principal.limits.over(app.limits());
    app.rates().take(app.streams(), &principal.tenant, Counted::Requests, &limits, None).await?;
    // Who signs in anew leaves no session behind.
    if let Some(earlier) = secret(&headers) {
        end_one(&app, earlier).await?;
    }
    let mut bytes = [0_u8; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let secret = hex::encode(bytes);
    let longest = app.config().session_lifetime();
    let until = Utc::now() + TimeDelta::from_std(longest).unwrap_or(TimeDelta::MAX);
    let kept = Kept { key_id: principal.key_id.clone(), until };
    let kept = serde_json::to_vec(&kept).map_err(|error| Problem::internal(&error))?;
    let session = NewSession {
        hash: &hash(&secret),
        content: kept.into(),
        api_key: &principal.key_id,
        idle: app.config().session_idle(),
        longest,
    };
    app.streams().begin_session(session, SESSIONS_OF_KEY).await.map_err(|error| away(&error))?;
    tracing::info!(tenant = %principal.tenant, key = principal.key_id, "signed in");
    let mut response = Json(SessionBody::new(&principal, &secret)).into_response();
    set_cookie(&mut response, &headers, &secret, longest.as_secs());
    Ok(response)
}

/// Ask who is signed in.
#[utoipa::path(
    get, path = "/api/v1/session", tag = "keys", security(()),
    responses(
        (status = 200, description = "Signed in.", body = SessionBody),
        (status = 204, description = "Nobody is, or the session has ended."),
    ),
)]
async fn look(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let Some(secret) = secret(&headers) else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let mut response = match find(&app, secret).await {
        Ok(principal) => Json(SessionBody::new(&principal, secret)).into_response(),
        Err(problem) if problem.code() == "unauthorized" => StatusCode::NO_CONTENT.into_response(),
        Err(problem) => return Err(problem),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Sign out.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "keys", security(()),
    responses((status = 204, description = "Signed out, or nobody was signed in.")),
)]
async fn end(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(secret) = secret(&headers) {
        check_token(&headers, secret)?;
        end_one(&app, secret).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, &headers, "", 0);
    Ok(response)
}

/// Who is signed in, for a request without a key of its own; none where it has no session either.
pub(crate) async fn principal(app: &App, parts: &Parts) -> Result<Option<Principal>, Problem> {
    let Some(secret) = secret(&parts.headers) else { return Ok(None) };
    if !matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS) {
        check_token(&parts.headers, secret)?;
    } else if parts.headers.contains_key(CSRF) && check_token(&parts.headers, secret).is_err() {
        // The browser has another session by now, begun in another tab, and the page still shows the one before.
        return Err(Problem::unauthorized(
            "the session that this page began has ended, and another is signed in",
        ));
    }
    find(app, secret).await.map(Some)
}

async fn kept(app: &App, secret: &str) -> Result<Option<Kept>, Problem> {
    let kept = app.streams().session(&hash(secret), app.config().session_idle()).await;
    Ok(kept.map_err(|error| away(&error))?.and_then(|kept| serde_json::from_slice(&kept).ok()))
}

async fn end_one(app: &App, secret: &str) -> Result<(), Problem> {
    let Some(kept) = kept(app, secret).await? else { return Ok(()) };
    app.streams().end_session(&hash(secret), &kept.key_id).await.map_err(|error| away(&error))
}

async fn find(app: &App, secret: &str) -> Result<Principal, Problem> {
    let kept = kept(app, secret).await?.ok_or_else(nobody)?;
    if kept.until <= Utc::now() {
        return Err(nobody());
    }
    app.keys().of_session(app.store(), &kept.key_id).await
}

fn nobody() -> Problem {
    Problem::unauthorized("nobody is signed in, or the session has ended; sign in with a key")
}

fn refused_token() -> Problem {
    Problem::forbidden("a request of a signed-in page needs its token in the header `riacho-csrf`")
}

fn away(error: &riacho_streams::Error) -> Problem {
    tracing::warn!(%error, "sessions cannot be read");
    Problem::unavailable("redis is not available, which keeps the sessions; requests with a key go on")
}

/// The secret of the cookie, where it has the form of one.
fn secret(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let name = cookie_name(headers);
    let mut secrets = pairs.filter(|(found, _)| *found == name).map(|(_, secret)| secret);
    let secret = secrets.next()?;
    // Without HTTPS a neighbouring host of the domain can set a cookie of the same name, and which of two is ours nobody can tell.
    if secrets.next().is_some() {
        return None;
    }
    let is_one = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| b.is_ascii_hexdigit());
    is_one.then_some(secret)
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// The token that belongs to a secret, which it does not tell.
fn token(secret: &str) -> String {
    hex::encode(Sha256::digest(format!("csrf {secret}")))
}

fn check_token(headers: &HeaderMap, secret: &str) -> Result<(), Problem> {
    let presented = headers.get(CSRF).map(HeaderValue::as_bytes).unwrap_or_default();
    match bool::from(presented.ct_eq(token(secret).as_bytes())) {
        true => Ok(()),
        false => Err(refused_token()),
    }
}

/// Over HTTPS, as the proxy in front says, which a page of another origin has no way to, the name is one that is safe there.
fn cookie_name(request: &HeaderMap) -> &'static str {
    // The client's own is the first of those that several proxies wrote.
    let proto = request.get("x-forwarded-proto").and_then(|value| value.to_str().ok()?.split(',').next());
    match proto.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https")) {
        true => HOST_COOKIE,
        false => COOKIE,
    }
}

fn set_cookie(response: &mut Response, request: &HeaderMap, secret: &str, seconds: u64) {
    let name = cookie_name(request);
    let secure = if name == HOST_COOKIE { "; Secure" } else { "" };
    let cookie = format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            header::COOKIE,
            HeaderValue::from_str(value).unwrap_or_else(|_| unreachable!()),
        )])
    }

    #[test]
    fn only_a_cookie_of_the_right_form_is_looked_up() {
        let secret_text = "0a".repeat(32);
        let found = |value: &str| secret(&with_cookie(value)).map(str::to_owned);
        assert_eq!(found(&format!("a=b; {COOKIE}={secret_text}; c=d")).as_deref(), Some(&*secret_text));
        let two = format!("{COOKIE}={secret_text}; {COOKIE}={secret_text}");
        let (short, odd) = ("0a".repeat(31), "zz".repeat(32));
        for wrong in
            [two, format!("{COOKIE}={short}"), format!("{COOKIE}={odd}"), format!("x{COOKIE}={secret_text}")]
        {
            assert_eq!(found(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_token_of_the_session_is_taken() {
        let (mine, other) = ("0a".repeat(32), "0b".repeat(32));
        let with = |token: String| {
            HeaderMap::from_iter([(CSRF, HeaderValue::from_str(&token).unwrap_or_else(|_| unreachable!()))])
        };
        assert!(check_token(&with(token(&mine)), &mine).is_ok());
        assert!(check_token(&with(token(&other)), &mine).is_err());
        assert!(check_token(&HeaderMap::new(), &mine).is_err());
        assert_ne!(token(&mine), hash(&mine), "what Redis knows opens nothing");
    }
}
