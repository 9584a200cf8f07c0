//! The line of the log for each document that is deleted: whoever deletes it, and whatever it goes with. It is written
//! here, once the transaction is committed, since only the statements know what they took along.

use riacho_domain::{DocumentId, StageName, TenantId};

use crate::Role;

/// Why a document is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Somebody named it.
    Asked,
    /// What it is attached to was deleted, cancelled or replaced.
    Attached,
    /// The file that it was made of was deleted, or its time ran out.
    File,
    /// Its collection was deleted, or expired.
    Collection,
    /// The upload that it was made for never came.
    Upload,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Why::Asked => "asked",
            Why::Attached => "attached",
            Why::File => "file",
            Why::Collection => "collection",
            Why::Upload => "upload",
        }
    }
}

/// A document that a transaction deletes.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) tenant: TenantId,
    pub(crate) document: DocumentId,
    pub(crate) why: Why,
}

impl Gone {
    /// Says so, in the name of the service that a role is for.
    pub(crate) fn tell(&self, role: Role) {
        let Gone { tenant, document, why } = self;
        tracing::info!(service = service_of(role), step = "deleted", %tenant, %document, reason = why.as_str(), "the document is deleted");
    }
}

/// The service that deletes documents in a role.
const fn service_of(role: Role) -> &'static str {
    match role {
        Role::Service => "ingest-gateway",
        // The other stages make documents and versions, and take none away.
        Role::Stage => StageName::Index.service(),
        Role::Janitor => "janitor",
    }
}

#[cfg(test)]
mod tests {
    use riacho_domain::SERVICES;

    use super::*;

    #[test]
    fn the_services_that_delete_are_services() {
        for role in [Role::Service, Role::Stage, Role::Janitor] {
            assert!(SERVICES.contains(&service_of(role)), "{role:?}");
        }
    }
}
