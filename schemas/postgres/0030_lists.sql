-- The list of a tenant's documents in a state that few are in: without it all of them were walked. What is on its way has
-- indexes, and what is ready is mostly the newest.
CREATE INDEX document_versions_ended ON document_versions (tenant_id, state) WHERE state IN ('failed', 'cancelled', 'expired');

-- How many of a tenant are in a state: guessed from the two alone, a tenant without failures has the share of all.
CREATE STATISTICS document_versions_states (mcv) ON tenant_id, state FROM document_versions;

-- The list of a collection, in the order of lists.
CREATE INDEX documents_of_collection ON documents (collection_id, created_at DESC, id DESC);
