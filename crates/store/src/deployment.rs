//! Who the deployment is.

use uuid::Uuid;

use crate::{Error, Store, transaction::Scope};

impl Store {
    /// The id of the deployment, which its database was given when it was made and keeps in every dump. For the janitor's role.
    pub async fn deployment(&self) -> Result<Uuid, Error> {
        let rows = self.single(Scope::all("deployment"), GET, &[]).await?;
        let row = rows.first().ok_or_else(|| Error::Row("the table deployment is empty".into()))?;
        Ok(row.try_get(0)?)
    }
}

const GET: &str = "-- store::deployment::deployment
SELECT id FROM deployment";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[GET];
