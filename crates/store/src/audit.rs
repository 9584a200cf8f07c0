//! Who did what to keys, tenants, documents, dead letters, stages and the janitor.
//!
//! A store that acts for somebody ([`Store::acting_as`]) names them in each transaction, and triggers write what it changes
//! down with it (migrations 0027, 0028 and 0031). What changes no such row, or fails, is noted by [`Store::note_act`].

use std::{fmt, str::FromStr, sync::Arc};

use chrono::{DateTime, Utc};
use riacho_domain::TenantId;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    Error, Page, Store,
    cursor::{decode_time, encode_time},
    read,
    transaction::{Param, Scope},
};

/// The most entries of one page.
pub const MAX_AUDIT_PAGE: u32 = 200;

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    name: String,
    tenant: Option<TenantId>,
}

impl Actor {
    /// Whoever presented a key, by its public part.
    #[must_use]
    pub fn key(id: &str, tenant: &TenantId) -> Actor {
        Actor { name: format!("key:{}", plain(id)), tenant: Some(tenant.clone()) }
    }

    /// Whoever runs a command, by their login.
    #[must_use]
    pub fn command_line(login: &str) -> Actor {
        Actor { name: format!("cli:{}", plain(login)), tenant: None }
    }

    /// The name, as it stands in rows.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The statements that name who acts in a transaction. Neither alphabet has a quote.
    pub(crate) fn set_local(&self) -> String {
        let tenant = self.tenant.as_ref().map_or("", TenantId::as_str);
        format!("; SET LOCAL riacho.actor = '{}'; SET LOCAL riacho.actor_tenant = '{tenant}'", self.name)
    }
}

/// A name of letters that mean nothing in SQL.
fn plain(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    name.chars().take(100).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActOutcome {
    /// It was done.
    Ok,
    /// Whoever tried it may not.
    Refused,
    /// It was tried and not done.
    Failed,
}

impl ActOutcome {
    /// The name, as it stands in rows and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ActOutcome::Ok => "ok",
            ActOutcome::Refused => "refused",
            ActOutcome::Failed => "failed",
        }
    }
}

impl FromStr for ActOutcome {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [ActOutcome::Ok, ActOutcome::Refused, ActOutcome::Failed];
        let found = known.into_iter().find(|outcome| outcome.as_str() == text);
        found.ok_or_else(|| format!("outcome {text:?} is none of ok, refused, failed"))
    }
}

impl fmt::Display for ActOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An act to be noted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewAct<'a> {
    /// Whose act it was, or on whom; none: of the tenant that acts, if there is one.
    pub tenant: Option<&'a TenantId>,
    /// What was done, such as `stage.pause`.
    pub action: &'a str,
    /// To what.
    pub target: &'a str,
    /// How it ended.
    pub outcome: ActOutcome,
    /// What else is to be known, an object.
    pub detail: &'a Value,
}

/// An act.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Act {
    /// Its id.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// Whose act it was, or on whom.
    pub tenant: Option<TenantId>,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub target: String,
    /// How it ended.
    pub outcome: ActOutcome,
    /// What else is known.
    pub detail: Value,
}

impl Act {
    fn read(row: &Row) -> Result<Act, Error> {
        let (tenant, outcome): (Option<String>, String) =
            (row.try_get("tenant_id")?, row.try_get("outcome")?);
        Ok(Act {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            tenant: tenant.map(|_| read::tenant(row, "tenant_id")).transpose()?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            target: row.try_get("target")?,
            outcome: outcome.parse().map_err(Error::Row)?,
            detail: row.try_get("detail")?,
        })
    }
}

/// Which acts to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListActs {
    /// Only this action, or, where it ends in a dot, those that begin so: `key.`.
    pub action: Option<String>,
    /// Only of this actor.
    pub actor: Option<String>,
    /// Only to this target.
    pub target: Option<String>,
    /// Where the page before ended.
    pub cursor: Option<String>,
    /// How many, at most [`MAX_AUDIT_PAGE`].
    pub limit: u32,
}

impl Store {
    /// The same store, whose changes are noted as this one's.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Store {
        Store { actor: Some(Arc::new(actor)), ..self.clone() }
    }

    /// Notes an act of whoever the store acts for; nothing where that is nobody.
    pub async fn note_act(&self, act: &NewAct<'_>) -> Result<(), Error> {
        let Some(actor) = &self.actor else { return Ok(()) };
        let tenant = act.tenant.or(actor.tenant.as_ref()).map(TenantId::as_str);
        let params: [Param<'_>; 6] =
            [&tenant, &actor.name, &act.action, &act.target, &act.outcome.as_str(), act.detail];
        self.single(Scope::all("note_act"), NOTE, &params).await?;
        Ok(())
    }

    /// Acts, the newest first: a tenant's, or all of them in the janitor's role.
    pub async fn acts(&self, tenant: Option<&TenantId>, asked: &ListActs) -> Result<Page<Act>, Error> {
        let limit = asked.limit.clamp(1, MAX_AUDIT_PAGE);
        let (before, before_id) = asked.cursor.as_deref().map(decode_time).transpose()?.unzip();
        let begins = asked.action.as_deref().filter(|action| action.ends_with('.'));
        let is = asked.action.as_deref().filter(|action| !action.ends_with('.'));
        let scope = match tenant {
            Some(tenant) => Scope::tenant("acts", tenant),
            None => Scope::all("acts"),
        };
        let tenant = tenant.map(TenantId::as_str);
        let params: [Param<'_>; 8] =
            [&tenant, &is, &begins, &asked.actor, &asked.target, &before, &before_id, &i64::from(limit + 1)];
        let rows = self.single(scope, LIST, &params).await?;
        let acts = rows.iter().map(Act::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(acts, limit as usize, |act| encode_time(act.at, act.id)))
    }
}

const NOTE: &str = "-- store::audit::note_act
INSERT INTO audit (tenant_id, actor, action, target, outcome, detail) VALUES ($1, $2, $3, $4, $5, $6)";

const LIST: &str = "-- store::audit::acts
SELECT id, at, tenant_id, actor, action, target, outcome, detail FROM audit
WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR action = $2)
  AND ($3::text IS NULL OR starts_with(action, $3)) AND ($4::text IS NULL OR actor = $4)
  AND ($5::text IS NULL OR target = $5) AND ($6::timestamptz IS NULL OR (at, id) < ($6, $7::uuid))
ORDER BY at DESC, id DESC LIMIT $8";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[NOTE, LIST];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let actor = Actor::command_line("eve'; DROP TABLE audit; --\u{2019}");
        assert_eq!(actor.as_str(), "cli:eve___DROP_TABLE_audit__--_");
        assert!(!actor.set_local().contains("DROP TABLE"));
        let tenant = "acme".parse().unwrap();
        assert_eq!(
            Actor::key("0123456789abcdef", &tenant).set_local(),
            "; SET LOCAL riacho.actor = 'key:0123456789abcdef'; SET LOCAL riacho.actor_tenant = 'acme'"
        );
    }
}
