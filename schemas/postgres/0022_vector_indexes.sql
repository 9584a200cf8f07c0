-- A vector index is of one tenant (docs/adr/0008): one that all tenants share finds mostly rows of others.
CREATE SEQUENCE vector_indexes_id;
CREATE TABLE vector_indexes (
    space_id    integer NOT NULL REFERENCES embedding_spaces,
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    -- Names the index: vectors_<space>_hnsw_<id>.
    id          bigint NOT NULL UNIQUE,
    -- The tenant's vectors up to this number are in it.
    indexed_seq bigint NOT NULL,
    -- How many these were, and of how many documents.
    vectors     bigint NOT NULL CHECK (vectors > 0),
    documents   bigint NOT NULL CHECK (documents > 0),
    built_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (space_id, tenant_id)
);
ALTER TABLE vector_indexes ENABLE ROW LEVEL SECURITY;
ALTER TABLE vector_indexes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON vector_indexes TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON vector_indexes TO riacho_janitor USING (true);
GRANT SELECT ON vector_indexes TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON vector_indexes TO riacho_janitor;
GRANT USAGE ON SEQUENCE vector_indexes_id TO riacho_janitor;

-- What is newer than a tenant's index is found by the tenant's numbers; the tenant once more, so that no statement about one
-- document takes that index for its own. The janitor builds the new indexes; until then large
-- tenants are searched exactly.
DO $$
DECLARE
    name text;
BEGIN
    -- First, since the tables are written anew with all indexes that they have.
    FOR name IN SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND indexname ~ '^vectors_[0-9]+_hnsw_[0-9]+$' LOOP
        EXECUTE format('DROP INDEX %I', name);
    END LOOP;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename ~ '^vectors_[0-9]+$' LOOP
        EXECUTE format('ALTER TABLE %I ADD COLUMN tenant_in_order text COLLATE "C" NOT NULL GENERATED ALWAYS AS (tenant_id) STORED', name);
        EXECUTE format('CREATE INDEX %I ON %I (tenant_in_order, seq)', name || '_in_order', name);
        EXECUTE format('DROP INDEX %I', name || '_seq');
    END LOOP;
END
$$;
ALTER TABLE embedding_spaces DROP COLUMN indexed_seq;
