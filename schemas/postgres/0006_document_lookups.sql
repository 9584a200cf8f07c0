-- A document is looked up by its id. The policy compares the tenant in a way that no index serves, so that
-- the index by time is used by the statements that list a tenant's documents, which name the tenant
-- themselves, and by no other: until a new table is analysed, the planner takes it for as good as the
-- primary key, and walks all documents of the tenant for each one that it looks up. Rows that are written are
-- checked by the same comparison, since the policy has no other for them.
ALTER POLICY tenant_only ON documents USING ((tenant_id = current_tenant()) IS TRUE);
