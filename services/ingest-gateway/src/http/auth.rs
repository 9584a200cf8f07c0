//! Who is calling: API keys, and what they may do.

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use riacho_domain::TenantId;
use riacho_store::{Actor, KeyScope as Scope, Limits, Principal, Store};
use sha2::{Digest, Sha256};

use super::{App, problem::Problem, rate_headers::RatesSeen, session};
use crate::rates::Counted;

/// The longest key that is looked up.
const MAX_KEY_BYTES: usize = 256;
/// The most keys that are remembered.
const MAX_CACHED: usize = 10_000;

/// The scope a handler needs, as a type, so that no handler can forget to ask.
pub(crate) trait Needs: Send + Sync {
    /// The scope.
    const SCOPE: Scope;
    /// Whether it counts as an upload.
    const IS_UPLOAD: bool = false;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident = $scope:ident),* $(,)?) => {
        $($(#[$doc])* #[derive(Debug)] pub(crate) struct $name;
        impl Needs for $name { const SCOPE: Scope = Scope::$scope; })*
    };
}

needs! {
    /// Reads documents.
    Read = DocumentsRead,
    /// Adds, changes and deletes documents.
    Write = DocumentsWrite,
    /// Searches.
    Find = Search,
    /// Manages keys.
    Manage = Admin,
    /// Does what all tenants share.
    Operate = Operator,
}

/// Adds a document, or a version of one.
#[derive(Debug)]
pub(crate) struct Upload;

impl Needs for Upload {
    const SCOPE: Scope = Scope::DocumentsWrite;
    const IS_UPLOAD: bool = true;
}

/// A caller whose key has the scope, and whose tenant is within its rates.
#[derive(Debug)]
pub(crate) struct Caller<N> {
    /// The tenant that the key belongs to; all that the caller can see.
    pub(crate) tenant: TenantId,
    /// The public part of the key.
    pub(crate) key_id: String,
    /// Whether the key is an operator's.
    pub(crate) is_operator: bool,
    /// What the tenant may use.
    pub(crate) limits: Limits,
    seen: Option<RatesSeen>,
    needs: PhantomData<N>,
}

impl<N> Caller<N> {
    /// Who acts, for the audit log.
    pub(crate) fn actor(&self) -> Actor {
        Actor::key(&self.key_id, &self.tenant)
    }

    /// Counts a request that does what `parts` requests could do; refused while the tenant owes for earlier ones.
    pub(crate) async fn takes_parts(&self, app: &App, parts: usize) -> Result<(), Problem> {
        let (rates, seen) = (app.rates(), self.seen.as_ref());
        rates.take_parts(app.streams(), &self.tenant, parts, &self.limits, seen).await
    }

    /// The store, whose changes are noted as the caller's.
    pub(crate) fn store(&self, app: &App) -> Store {
        app.store().acting_as(self.actor())
    }
}

impl<N: Needs> FromRequestParts<App> for Caller<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let principal = principal(app, parts).await?;
        if !principal.may(N::SCOPE) {
            return Err(Problem::forbidden(format!("the key lacks the scope `{}`", N::SCOPE)));
        }
        let limits = principal.limits.over(app.limits());
        let seen = parts.extensions.get::<RatesSeen>().cloned();
        let take =
            |counted| app.rates().take(app.streams(), &principal.tenant, counted, &limits, seen.as_ref());
        take(Counted::Requests).await?;
        if N::IS_UPLOAD {
            take(Counted::Uploads).await?;
        }
        let is_operator = principal.may(Scope::Operator);
        Ok(Caller {
            tenant: principal.tenant,
            key_id: principal.key_id,
            is_operator,
            limits,
            seen,
            needs: PhantomData,
        })
    }
}

/// Who is calling: whose key the request carries, or else who is signed in.
async fn principal(app: &App, parts: &Parts) -> Result<Principal, Problem> {
    if !parts.headers.contains_key(header::AUTHORIZATION)
        && let Some(principal) = session::principal(app, parts).await?
    {
        return Ok(principal);
    }
    app.keys().principal(app.store(), &parts.headers).await
}

/// Remembers valid keys by their hash, so that a busy client costs one look-up in a few seconds.
/// Wrong keys are not remembered: they cost what they cost, below the address's limit.
#[derive(Debug)]
pub(crate) struct Keys {
    known: Mutex<HashMap<[u8; 32], (Instant, Principal)>>,
    keep: Duration,
}

impl Keys {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { known: Mutex::default(), keep }
    }

    async fn principal(&self, store: &Store, headers: &HeaderMap) -> Result<Principal, Problem> {
        let presented = presented(headers)?;
        let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        if let Some(principal) = self.remembered(&hash) {
            return Ok(principal);
        }
        let found = store.authenticate(presented).await?;
        let principal =
            found.ok_or_else(|| Problem::unauthorized("the key is not known, has expired or was revoked"))?;
        self.remember(hash, principal.clone());
        Ok(principal)
    }

    /// Whose key this is that a session stands for, by its public part.
    pub(crate) async fn of_session(&self, store: &Store, key_id: &str) -> Result<Principal, Problem> {
        // No header can carry a line end, so this is no presented key's hash.
        let hash: [u8; 32] = Sha256::digest(format!("\n{key_id}")).into();
        if let Some(principal) = self.remembered(&hash) {
            return Ok(principal);
        }
        let found = store.key_principal(key_id).await?;
        let principal = found
            .ok_or_else(|| Problem::unauthorized("the key of the session has expired or was revoked"))?;
        self.remember(hash, principal.clone());
        Ok(principal)
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Principal> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(hash)
            .filter(|(since, _)| since.elapsed() < self.keep)
            .map(|(_, principal)| principal.clone())
    }

    fn remember(&self, hash: [u8; 32], principal: Principal) {
        if self.keep.is_zero() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CACHED {
            known.retain(|_, (since, _)| since.elapsed() < self.keep);
        }
        if known.len() < MAX_CACHED {
            known.insert(hash, (Instant::now(), principal));
        }
    }
}

fn presented(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || Problem::unauthorized("send the key as `Authorization: Bearer KEY`");
    let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?.to_str().map_err(|_| missing())?;
    let (scheme, key) = value.split_once(' ').ok_or_else(missing)?;
    let key = key.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(missing());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_key_of_a_sane_length_is_looked_up() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap_or_else(|_| unreachable!()));
            presented(&headers).map(str::to_owned).ok()
        };
        assert_eq!(with("Bearer rk_a_b").as_deref(), Some("rk_a_b"));
        assert_eq!(with("bearer  rk_a_b").as_deref(), Some("rk_a_b"));
        assert!(presented(&HeaderMap::new()).is_err());
        for wrong in ["rk_a_b", "Basic rk_a_b", "Bearer ", &format!("Bearer {}", "k".repeat(300))] {
            assert_eq!(with(wrong), None, "{wrong}");
        }
    }
}
