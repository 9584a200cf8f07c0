-- Row-level security and the rights of the roles. Until this has run, no role but the owner reads a
-- table.

-- The tenants whose intake streams a gateway reads: ids only, and only of active ones.
CREATE FUNCTION active_tenants() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public
    BEGIN ATOMIC
        SELECT id FROM tenants WHERE state = 'active' ORDER BY id;
    END;

-- Row-level security, forced on every table with a tenant.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['api_keys', 'collections', 'documents', 'document_versions', 'chunks',
        'tenant_languages', 'idempotency_keys', 'intake_events', 'dead_letters', 'receipts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I TO riacho_service USING (tenant_id = current_tenant())', name);
        EXECUTE format('CREATE POLICY all_tenants ON %I TO riacho_janitor USING (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO riacho_service, riacho_janitor', name);
    END LOOP;
END
$$;
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON tenants TO riacho_service USING (id = current_tenant());
CREATE POLICY all_tenants ON tenants TO riacho_janitor USING (true);
CREATE POLICY names_of_active ON tenants FOR SELECT TO CURRENT_USER USING (state = 'active');
GRANT SELECT ON tenants TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenants TO riacho_janitor;
-- A key is looked up by its public id before its tenant is known: that one row and no other.
CREATE POLICY own_key ON api_keys FOR SELECT TO riacho_service
    USING (id = nullif(current_setting('riacho.key_id', true), ''));
CREATE POLICY tenant_of_key ON tenants FOR SELECT TO riacho_service
    USING (id = (SELECT k.tenant_id FROM api_keys AS k WHERE k.id = nullif(current_setting('riacho.key_id', true), '')));
REVOKE DELETE ON api_keys, documents, document_versions, chunks, receipts, dead_letters FROM riacho_service;

GRANT SELECT ON embedding_spaces, topology, schedules, leases TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON topology, leases, schedules TO riacho_janitor;
GRANT SELECT, UPDATE ON embedding_spaces TO riacho_janitor;
GRANT SELECT ON state_transitions TO riacho_service, riacho_janitor;
REVOKE EXECUTE ON FUNCTION active_tenants() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION active_tenants() TO riacho_service, riacho_janitor;
