//! All statements, so that a test can prepare each against the real schema: a typing error in one
//! that runs once a month is found at once.

use riacho_domain::SpaceId;

use crate::{
    accept, chunks, collections, commands, dead_letters, documents, due, indexing, intake, janitor, keys,
    leases, migrate, pool, purge, release, search, spaces, stages, start, status, tenants, topology, uploads,
};

impl crate::Store {
    /// Prepares every statement of the crate in this store's role, and answers those that fail, with
    /// the reason. For tests and diagnosis.
    pub async fn broken_statements(&self, space: SpaceId) -> Result<Vec<(String, String)>, crate::Error> {
        let client = self.client().await?;
        let mut broken = Vec::new();
        for sql in all(space) {
            if !sql.starts_with("-- store::") {
                broken.push((sql.clone(), "its first line does not name its function".to_owned()));
            }
            if let Err(error) = client.prepare(&sql).await {
                broken.push((sql, crate::Error::from(error).to_string()));
            }
        }
        Ok(broken)
    }
}

/// The statements of the services and the janitor, for a space.
fn all(space: SpaceId) -> Vec<String> {
    let fixed = [
        accept::STATEMENTS,
        accept::WRITE_STATEMENTS,
        chunks::STATEMENTS,
        collections::STATEMENTS,
        commands::STATEMENTS,
        dead_letters::STATEMENTS,
        documents::STATEMENTS,
        due::STATEMENTS,
        intake::STATEMENTS,
        janitor::STATEMENTS,
        keys::STATEMENTS,
        leases::STATEMENTS,
        migrate::STATEMENTS,
        pool::STATEMENTS,
        release::STATEMENTS,
        spaces::STATEMENTS,
        stages::STATEMENTS,
        start::STATEMENTS,
        status::STATEMENTS,
        tenants::STATEMENTS,
        topology::STATEMENTS,
        uploads::STATEMENTS,
    ];
    let mut all: Vec<String> = fixed.concat().into_iter().map(str::to_owned).collect();
    all.extend(indexing::statements(space));
    all.extend(search::statements(space));
    all.extend(purge::statements(space));
    all
}
