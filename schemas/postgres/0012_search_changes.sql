-- How often what a tenant's searches can see has changed. Answers to searches are kept in Redis under this number, so
-- the transaction that changes what is visible is also the one that makes kept answers unreachable.
--
-- A tenant's changes are counted in several rows, of which a transaction takes the one of its connection, so that
-- transactions that make documents of one tenant searchable do not wait for each other. The number is their sum.
CREATE TABLE search_changes (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    slot        smallint NOT NULL CHECK (slot BETWEEN 0 AND 15),
    changes     bigint NOT NULL,
    PRIMARY KEY (tenant_id, slot)
) WITH (fillfactor = 50);
ALTER TABLE search_changes ENABLE ROW LEVEL SECURITY;
ALTER TABLE search_changes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON search_changes TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON search_changes TO riacho_janitor USING (true);
GRANT SELECT, INSERT, UPDATE ON search_changes TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON search_changes TO riacho_janitor;
