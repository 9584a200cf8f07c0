//! Tenants. All but `active_tenants` is work of the janitor's role.

use chrono::{DateTime, Utc};
use riacho_domain::TenantId;
use tokio_postgres::Row;

use crate::{
    Budget, Conflict, Error, OwnLimits, Quota, Store, read,
    transaction::{Param, Scope},
};

/// What a tenant may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    /// Everything.
    Active,
    /// Nothing; its documents stay.
    Suspended,
    /// Nothing; its documents are being removed.
    Deleting,
}

impl TenantState {
    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            TenantState::Active => "active",
            TenantState::Suspended => "suspended",
            TenantState::Deleting => "deleting",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        [TenantState::Active, TenantState::Suspended, TenantState::Deleting]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| Error::Row(format!("tenant in state {text}")))
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, for people.
    pub name: String,
    /// What it may do.
    pub state: TenantState,
    /// Its share of releases where several tenants wait, from 1 to 100.
    pub weight: u32,
    /// What is set for it alone of what it may use.
    pub limits: OwnLimits,
    /// The quotas that are used up.
    pub over_quota: Vec<Quota>,
    /// The budgets of the month that are used up.
    pub over_budget: Vec<Budget>,
    /// Whether its documents then go on with the fallback space, where there is one.
    pub wants_fallback: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl Tenant {
    fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: read::tenant(row, "id")?,
            name: row.try_get("name")?,
            state: TenantState::parse(row.try_get("state")?)?,
            weight: read::count(row, "weight")?,
            limits: OwnLimits::read(row)?,
            over_quota: Quota::read(row)?,
            over_budget: Budget::read(row)?,
            wants_fallback: row.try_get("wants_fallback")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

impl Store {
    /// Makes a tenant.
    pub async fn create_tenant(&self, id: &TenantId, name: &str) -> Result<Tenant, Error> {
        let rows = self.single(Scope::all("create_tenant"), CREATE, &[&id.as_str(), &name]).await?;
        rows.first().map(Tenant::read).transpose()?.ok_or(Error::Conflict(Conflict::Exists("tenant")))
    }

    /// The tenant as it is, or made.
    pub async fn ensure_tenant(&self, id: &TenantId, name: &str) -> Result<Tenant, Error> {
        match self.create_tenant(id, name).await {
            Err(Error::Conflict(Conflict::Exists(_))) => {
                self.tenant(id).await?.ok_or(Error::NotFound("tenant"))
            }
            other => other,
        }
    }

    /// All tenants, by id.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, Error> {
        self.single(Scope::all("tenants"), LIST, &[]).await?.iter().map(Tenant::read).collect()
    }

    /// One tenant. In the services' role it is found only as the tenant of the transaction, which it is.
    pub async fn tenant(&self, id: &TenantId) -> Result<Option<Tenant>, Error> {
        self.single(Scope::tenant("tenant", id), GET, &[&id.as_str()])
            .await?
            .first()
            .map(Tenant::read)
            .transpose()
    }

    /// Sets a tenant's share of releases where several tenants wait, from 1 to 100.
    pub async fn set_tenant_weight(&self, id: &TenantId, weight: u32) -> Result<Tenant, Error> {
        if !(1..=100).contains(&weight) {
            return Err(Error::Invalid("a weight is from 1 to 100".into()));
        }
        let params: [Param<'_>; 2] = [&id.as_str(), &read::signed(weight)];
        let rows = self.single(Scope::all("set_tenant_weight"), SET_WEIGHT, &params).await?;
        rows.first().map(Tenant::read).transpose()?.ok_or(Error::NotFound("tenant"))
    }

    /// Stops a tenant: its keys no longer work, what is in flight finishes.
    pub async fn suspend_tenant(&self, id: &TenantId) -> Result<Tenant, Error> {
        self.set_state(id, TenantState::Suspended, &["active", "suspended"]).await
    }

    /// Lets a suspended tenant work again.
    pub async fn resume_tenant(&self, id: &TenantId) -> Result<Tenant, Error> {
        self.set_state(id, TenantState::Active, &["active", "suspended"]).await
    }

    /// Marks a tenant with its keys and documents as deleted; they are invisible at once, and purge
    /// removes what is left of them.
    pub async fn delete_tenant(&self, id: &TenantId) -> Result<Tenant, Error> {
        let tenant = self.set_state(id, TenantState::Deleting, &["active", "suspended", "deleting"]).await?;
        self.mark_all(id).await?;
        Ok(tenant)
    }

    /// Marks what tenants in deletion have that is not marked: an upload that saw its tenant active may commit after the tenant
    /// was deleted, and a deletion may have been cut off. Answers which tenants had such.
    pub async fn delete_what_came_late(&self) -> Result<Vec<TenantId>, Error> {
        let tenants = self.tenants_with_late().await?;
        for tenant in &tenants {
            self.mark_all(tenant).await?;
        }
        Ok(tenants)
    }

    /// The tenants that [`Store::delete_what_came_late`] would find.
    pub async fn tenants_with_late(&self) -> Result<Vec<TenantId>, Error> {
        let rows = self.single(Scope::all("tenants_with_late"), WITH_LATE, &[]).await?;
        rows.iter().map(|row| read::tenant(row, "id")).collect()
    }

    async fn mark_all(&self, id: &TenantId) -> Result<(), Error> {
        self.transaction(Scope::all("delete_tenant"), |tx| async move {
            tx.execute(DELETE_FILES, &[&id.as_str()]).await?;
            tx.query(LOCK_DOCUMENTS, &[&id.as_str()]).await?;
            tx.query(LOCK_VERSIONS, &[&id.as_str()]).await?;
            tx.execute(CANCEL_VERSIONS, &[&id.as_str()]).await?;
            tx.execute(DELETE_DOCUMENTS, &[&id.as_str()]).await?;
            tx.execute(REVOKE_KEYS, &[&id.as_str()]).await?;
            Ok(())
        })
        .await
    }

    /// Removes tenants in deletion of which no document is left. Answers their ids.
    pub async fn remove_deleted_tenants(&self) -> Result<Vec<TenantId>, Error> {
        let rows = self.single(Scope::all("remove_deleted_tenants"), REMOVE_DELETED, &[]).await?;
        rows.iter().map(|row| read::tenant(row, "id")).collect()
    }

    /// How many tenants [`Store::remove_deleted_tenants`] would answer.
    pub async fn tenants_to_remove(&self) -> Result<u64, Error> {
        Ok(self.single(Scope::all("tenants_to_remove"), TO_REMOVE, &[]).await?.len() as u64)
    }

    /// The active tenants. Services may ask it too.
    pub async fn active_tenants(&self) -> Result<Vec<TenantId>, Error> {
        let rows = self.single(Scope::all("active_tenants"), ACTIVE, &[]).await?;
        rows.iter().map(|row| read::tenant(row, "id")).collect()
    }

    async fn set_state(&self, id: &TenantId, to: TenantState, from: &[&str]) -> Result<Tenant, Error> {
        let params: [Param<'_>; 3] = [&id.as_str(), &to.as_str(), &from];
        let rows = self.single(Scope::all("set_tenant_state"), SET_STATE, &params).await?;
        match rows.first() {
            Some(row) => Tenant::read(row),
            None if self.tenant(id).await?.is_some() => Err(Conflict::TenantNotActive.into()),
            None => Err(Error::NotFound("tenant")),
        }
    }
}

const CREATE: &str = "-- store::tenants::create_tenant
INSERT INTO tenants (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING
RETURNING id, name, state, weight, limits, over_quota, over_budget, wants_fallback, created_at";

const LIST: &str = "-- store::tenants::tenants
SELECT id, name, state, weight, limits, over_quota, over_budget, wants_fallback, created_at FROM tenants ORDER BY id";

const GET: &str = "-- store::tenants::tenant
SELECT id, name, state, weight, limits, over_quota, over_budget, wants_fallback, created_at FROM tenants WHERE id = $1";

const SET_WEIGHT: &str = "-- store::tenants::set_tenant_weight
UPDATE tenants SET weight = $2 WHERE id = $1 RETURNING id, name, state, weight, limits, over_quota, over_budget, wants_fallback, created_at";

const SET_STATE: &str = "-- store::tenants::set_state
UPDATE tenants SET state = $2 WHERE id = $1 AND state = ANY ($3) RETURNING id, name, state, weight, limits, over_quota, over_budget, wants_fallback, created_at";

const LOCK_DOCUMENTS: &str = "-- store::tenants::delete_tenant
SELECT 1 FROM documents WHERE tenant_id = $1 ORDER BY id FOR NO KEY UPDATE";

const LOCK_VERSIONS: &str = "-- store::tenants::delete_tenant
SELECT 1 FROM document_versions
WHERE tenant_id = $1 AND document_id IN (SELECT id FROM documents WHERE tenant_id = $1) AND finished_at IS NULL
ORDER BY document_id, version FOR NO KEY UPDATE";

const CANCEL_VERSIONS: &str = "-- store::tenants::delete_tenant
UPDATE document_versions SET state = 'cancelled', ended_by = 'command', finished_at = now()
WHERE tenant_id = $1 AND document_id IN (SELECT id FROM documents WHERE tenant_id = $1) AND finished_at IS NULL";

const DELETE_DOCUMENTS: &str = "-- store::tenants::delete_tenant
UPDATE documents SET deleted_at = now(), updated_at = now() WHERE tenant_id = $1 AND deleted_at IS NULL";

const DELETE_FILES: &str = "-- store::tenants::delete_tenant
UPDATE files SET deleted_at = now() WHERE tenant_id = $1 AND deleted_at IS NULL";

const REVOKE_KEYS: &str = "-- store::tenants::delete_tenant
UPDATE api_keys SET revoked_at = now() WHERE tenant_id = $1 AND revoked_at IS NULL";

const WITH_LATE: &str = "-- store::tenants::tenants_with_late
SELECT t.id FROM tenants AS t WHERE t.state = 'deleting'
  AND (EXISTS (SELECT FROM documents WHERE tenant_id = t.id AND deleted_at IS NULL)
       OR EXISTS (SELECT FROM files WHERE tenant_id = t.id AND deleted_at IS NULL)
       OR EXISTS (SELECT FROM api_keys WHERE tenant_id = t.id AND revoked_at IS NULL))
ORDER BY t.id";

macro_rules! removable {
    () => {
        "tenants AS t WHERE t.state = 'deleting' AND NOT EXISTS (SELECT FROM documents WHERE tenant_id = t.id)
  AND NOT EXISTS (SELECT FROM files WHERE tenant_id = t.id)"
    };
}

const REMOVE_DELETED: &str =
    concat!("-- store::tenants::remove_deleted_tenants\nDELETE FROM ", removable!(), " RETURNING t.id");

const TO_REMOVE: &str = concat!("-- store::tenants::tenants_to_remove\nSELECT t.id FROM ", removable!());

const ACTIVE: &str = "-- store::tenants::active_tenants
SELECT id FROM active_tenants() AS id";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[
    CREATE,
    LIST,
    GET,
    SET_WEIGHT,
    SET_STATE,
    LOCK_DOCUMENTS,
    LOCK_VERSIONS,
    CANCEL_VERSIONS,
    DELETE_DOCUMENTS,
    DELETE_FILES,
    REVOKE_KEYS,
    WITH_LATE,
    REMOVE_DELETED,
    TO_REMOVE,
    ACTIVE,
];
