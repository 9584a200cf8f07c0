//! API keys: `rk_<id>_<secret>`, of which only the SHA-256 of the secret is kept.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use rand::RngCore;
use riacho_domain::{Secret, TenantId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_postgres::Row;

use crate::{
    Conflict, Error, OwnLimits, Store, read,
    tenants::TenantState,
    transaction::{Param, Scope},
};

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum KeyScope {
    /// Reading documents, their status, texts and chunks.
    #[serde(rename = "documents:read")]
    DocumentsRead,
    /// Uploading, cancelling, retrying and deleting documents.
    #[serde(rename = "documents:write")]
    DocumentsWrite,
    /// Searching.
    #[serde(rename = "search")]
    Search,
    /// Everything of the tenant, keys and collections too.
    #[serde(rename = "admin")]
    Admin,
    /// What all tenants share: pausing stages, running the janitor's tasks. No other scope holds it.
    #[serde(rename = "operator")]
    Operator,
}

impl KeyScope {
    /// All scopes.
    pub const ALL: [KeyScope; 5] = [
        KeyScope::DocumentsRead,
        KeyScope::DocumentsWrite,
        KeyScope::Search,
        KeyScope::Admin,
        KeyScope::Operator,
    ];

    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyScope::DocumentsRead => "documents:read",
            KeyScope::DocumentsWrite => "documents:write",
            KeyScope::Search => "search",
            KeyScope::Admin => "admin",
            KeyScope::Operator => "operator",
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        KeyScope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
            format!("scope {text:?} is none of documents:read, documents:write, search, admin, operator")
        })
    }
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Whose key it is.
    pub tenant: TenantId,
    /// A name for people.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<KeyScope>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// The public part.
    pub id: String,
    /// Whose key it is.
    pub tenant: TenantId,
    /// A name for people.
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<KeyScope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A new key, with the text that opens: the only time that it is known.
#[derive(Debug, Clone)]
pub struct CreatedKey {
    /// The key.
    pub key: ApiKey,
    /// `rk_<id>_<secret>`.
    pub secret: Secret,
}

/// Who presented a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The key's tenant.
    pub tenant: TenantId,
    /// The key's public part.
    pub key_id: String,
    /// What the key may be used for.
    pub scopes: Vec<KeyScope>,
    /// What is set for the tenant alone of what it may use.
    pub limits: OwnLimits,
}

impl Principal {
    /// Whether the key may be used for this; an admin's may for all that is the tenant's own.
    #[must_use]
    pub fn may(&self, scope: KeyScope) -> bool {
        let holds = |have: KeyScope| have == scope || have == KeyScope::Admin && scope != KeyScope::Operator;
        self.scopes.iter().any(|have| holds(*have))
    }
}

impl ApiKey {
    fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            tenant: read::tenant(row, "tenant_id")?,
            name: row.try_get("name")?,
            scopes: scopes(row)?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

fn scopes(row: &Row) -> Result<Vec<KeyScope>, Error> {
    let names: Vec<String> = row.try_get("scopes")?;
    names.iter().map(|name| name.parse().map_err(Error::Row)).collect()
}

impl Store {
    /// Makes a key.
    pub async fn create_key(&self, new: &NewKey) -> Result<CreatedKey, Error> {
        if new.name.is_empty() || new.name.chars().count() > 200 {
            return Err(Error::Invalid("a key's name has 1 to 200 characters".into()));
        }
        let (mut id, mut secret) = ([0_u8; 8], [0_u8; 32]);
        rand::rng().fill_bytes(&mut id);
        rand::rng().fill_bytes(&mut secret);
        let (id, secret) = (hex::encode(id), URL_SAFE_NO_PAD.encode(secret));
        let hash = Sha256::digest(secret.as_bytes()).to_vec();
        let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
        let params: [Param<'_>; 6] = [&id, &new.tenant.as_str(), &new.name, &hash, &scopes, &new.expires_at];
        let made = self.single(Scope::tenant("create_key", &new.tenant), CREATE, &params).await;
        let rows = match made {
            Err(error) if error.constraint() == Some("api_keys_tenant_id_fkey") => {
                return Err(Error::NotFound("tenant"));
            }
            other => other?,
        };
        let row = rows.first().ok_or_else(|| Error::Row("a key that was not made".into()))?;
        Ok(CreatedKey { key: ApiKey::read(row)?, secret: Secret::from(format!("rk_{id}_{secret}")) })
    }

    /// The tenant's keys, the newest first, revoked ones too.
    pub async fn keys(&self, tenant: &TenantId) -> Result<Vec<ApiKey>, Error> {
        let rows = self.single(Scope::tenant("keys", tenant), LIST, &[&tenant.as_str()]).await?;
        rows.iter().map(ApiKey::read).collect()
    }

    /// Revokes a key. False: there is no such key, or it was revoked before.
    pub async fn revoke_key(&self, tenant: &TenantId, id: &str) -> Result<bool, Error> {
        let rows = self.single(Scope::tenant("revoke_key", tenant), REVOKE, &[&tenant.as_str(), &id]).await?;
        Ok(!rows.is_empty())
    }

    /// Who presents this key; none when it is unknown, wrong, expired or revoked. An unknown id takes the
    /// same steps as a wrong secret.
    ///
    /// # Errors
    /// `TenantNotActive` where the key is right and its tenant is suspended or being deleted.
    pub async fn authenticate(&self, presented: &str) -> Result<Option<Principal>, Error> {
        let Some((id, secret)) = split(presented) else {
            return Ok(None);
        };
        let row = self.find_key(id).await?;
        let presented_hash = Sha256::digest(secret.as_bytes());
        let stored = match &row {
            Some(row) => row.try_get::<_, Vec<u8>>("secret_hash")?,
            None => vec![0; 32],
        };
        let equal = bool::from(presented_hash.as_slice().ct_eq(&stored));
        let Some(row) = row.filter(|_| equal) else {
            return Ok(None);
        };
        principal(&row)
    }

    /// Whose key this is, by its public part; none when it is unknown, expired or revoked. For those who showed the whole key
    /// before.
    ///
    /// # Errors
    /// `TenantNotActive` where the tenant is suspended or being deleted.
    pub async fn key_principal(&self, id: &str) -> Result<Option<Principal>, Error> {
        match self.find_key(id).await? {
            Some(row) => principal(&row),
            None => Ok(None),
        }
    }

    async fn find_key(&self, id: &str) -> Result<Option<Row>, Error> {
        self.transaction(Scope::all("authenticate"), |tx| async move {
            tx.prepare(&[NAME_KEY, FIND]).await?;
            let params: [Param<'_>; 1] = [&id];
            let (named, row, committed) =
                futures::join!(tx.query(NAME_KEY, &params), tx.query_opt(FIND, &params), tx.commit());
            named?;
            let row = row?;
            committed?;
            Ok(row)
        })
        .await
    }
}

/// Who has the key of a row, where it works.
fn principal(row: &Row) -> Result<Option<Principal>, Error> {
    let works: bool = row.try_get("works")?;
    if !works {
        return Ok(None);
    }
    if TenantState::parse(row.try_get("tenant_state")?)? != TenantState::Active {
        return Err(Conflict::TenantNotActive.into());
    }
    Ok(Some(Principal {
        tenant: read::tenant(row, "tenant_id")?,
        key_id: row.try_get("id")?,
        scopes: scopes(row)?,
        limits: OwnLimits::read(row)?,
    }))
}

/// `rk_<id>_<secret>` in its parts. The secret may have underscores, the id has none.
fn split(presented: &str) -> Option<(&str, &str)> {
    if presented.len() > 200 {
        return None;
    }
    let (id, secret) = presented.strip_prefix("rk_")?.split_once('_')?;
    let plausible = id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()) && !secret.is_empty();
    plausible.then_some((id, secret))
}

const CREATE: &str = "-- store::keys::create_key
INSERT INTO api_keys (id, tenant_id, name, secret_hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, tenant_id, name, scopes, created_at, expires_at, revoked_at";

const LIST: &str = "-- store::keys::keys
SELECT id, tenant_id, name, scopes, created_at, expires_at, revoked_at FROM api_keys
WHERE tenant_id = $1 ORDER BY created_at DESC, id";

const REVOKE: &str = "-- store::keys::revoke_key
UPDATE api_keys SET revoked_at = now() WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL RETURNING id";

const NAME_KEY: &str = "-- store::keys::authenticate
SELECT set_config('riacho.key_id', $1, true)";

const FIND: &str = "-- store::keys::authenticate
SELECT k.id, k.tenant_id, k.secret_hash, k.scopes, t.state AS tenant_state, t.limits,
       k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) AS works
FROM api_keys AS k JOIN tenants AS t ON t.id = k.tenant_id
WHERE k.id = $1";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[CREATE, LIST, REVOKE, NAME_KEY, FIND];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_of_the_right_form_reach_the_database() {
        assert_eq!(split("rk_0123456789abcdef_a_b-c"), Some(("0123456789abcdef", "a_b-c")));
        for bad in
            ["", "rk_", "rk_0123456789abcdef", "rk_0123456789abcdef_", "sk_0123456789abcdef_x", "rk_xyz_x"]
        {
            assert_eq!(split(bad), None, "{bad}");
        }
        assert_eq!(split(&format!("rk_0123456789abcdef_{}", "a".repeat(300))), None);
    }
}
