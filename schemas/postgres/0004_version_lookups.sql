-- A version is looked up by its document, never by its tenant. An index that has the tenant is of no use
-- for that, and does harm: until a new table is analysed, the planner takes all indexes to be equally
-- good, and walks all versions of a tenant for each one that it looks up.
DROP INDEX document_versions_tenant;
DROP INDEX document_versions_same_bytes;
CREATE INDEX document_versions_same_bytes ON document_versions (sha256);

-- A manifest fits its row as it is; compressed, each update of the row would cost more.
ALTER TABLE document_versions SET (toast_tuple_target = 8160);
