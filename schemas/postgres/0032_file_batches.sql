-- Files that could not be attached with their batch, and why. The file may be gone, or be attached later: nothing refers to it.
CREATE TABLE file_batch_refusals (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    batch_id      uuid NOT NULL REFERENCES file_batches ON DELETE CASCADE,
    file_id       uuid NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    error_code    text NOT NULL,
    error_message text NOT NULL,
    PRIMARY KEY (batch_id, file_id)
);
ALTER TABLE file_batch_refusals ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_batch_refusals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON file_batch_refusals TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON file_batch_refusals TO riacho_janitor USING (true);
GRANT SELECT, INSERT ON file_batch_refusals TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON file_batch_refusals TO riacho_janitor;

-- A batch is about the version that it attached, whatever became of the document since. Of those that are there the latest is
-- the best guess. The owner has no policy and sees nothing of a table that is forced.
ALTER TABLE file_batch_documents ADD COLUMN version integer CHECK (version > 0);
ALTER TABLE file_batch_documents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE documents NO FORCE ROW LEVEL SECURITY;
UPDATE file_batch_documents AS b SET version = d.latest_version FROM documents AS d WHERE d.id = b.document_id;
ALTER TABLE file_batch_documents FORCE ROW LEVEL SECURITY;
ALTER TABLE documents FORCE ROW LEVEL SECURITY;
ALTER TABLE file_batch_documents ALTER COLUMN version SET NOT NULL;

-- A deleted collection of which documents may be left. Until it is empty, searches and lists leave them out; then there is nothing
-- to leave out, however long its row waits for the purge.
ALTER TABLE collections ADD COLUMN emptied_at timestamptz;
CREATE INDEX collections_hidden ON collections (tenant_id) WHERE deleted_at IS NOT NULL AND emptied_at IS NULL;

-- A name that nobody can give: a collection's name has no control characters.
-- Where nothing is left in one that was deleted before, it is empty.
ALTER TABLE collections NO FORCE ROW LEVEL SECURITY;
ALTER TABLE documents NO FORCE ROW LEVEL SECURITY;
UPDATE collections AS c
SET name = chr(1) || 'deleted ' || c.id::text,
    emptied_at = CASE WHEN NOT EXISTS (SELECT FROM documents AS d WHERE d.collection_id = c.id AND d.deleted_at IS NULL) THEN now() END
WHERE c.deleted_at IS NOT NULL;
ALTER TABLE documents FORCE ROW LEVEL SECURITY;
ALTER TABLE collections FORCE ROW LEVEL SECURITY;
