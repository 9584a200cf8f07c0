-- Files are bytes that were uploaded by themselves. Documents are made of them, in any number of collections (docs/adr/0024).
CREATE TABLE files (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants,
    id            uuid PRIMARY KEY,
    -- The file owns its object: the documents that are made of it only name it, and it goes when none of them is left.
    object_key    text NOT NULL UNIQUE,
    filename      text NOT NULL,
    content_type  text NOT NULL,
    purpose       text NOT NULL,
    size          bigint NOT NULL CHECK (size > 0),
    sha256        bytea NOT NULL CHECK (length(sha256) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),
    -- When it was last attached to a collection or detached from one. The retention of a file that is in none counts from here.
    used_at       timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    deleted_at    timestamptz
);
CREATE INDEX files_tenant ON files (tenant_id, id);
CREATE INDEX files_used ON files (used_at) WHERE deleted_at IS NULL;
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX files_deleted ON files (deleted_at) WHERE deleted_at IS NOT NULL;

-- The file that a document was made of. No cascade: a file is removed when no document of it is left.
ALTER TABLE documents ADD COLUMN file_id uuid REFERENCES files;
CREATE INDEX documents_file ON documents (file_id) WHERE file_id IS NOT NULL;
-- The documents of a collection are listed by their ids, which are in the order of time.
CREATE INDEX documents_in_collection ON documents (collection_id, id);
DROP INDEX documents_collection;

-- What a collection is as a vector store. Its name is an address and part of what makes two uploads the same document, so it stays;
-- what people call it may change.
ALTER TABLE collections
    ADD COLUMN title              text CHECK (length(title) <= 256),
    ADD COLUMN description        text CHECK (length(description) <= 1000),
    ADD COLUMN metadata           jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    -- Days without use after which its documents are deleted.
    ADD COLUMN expires_after_days integer CHECK (expires_after_days BETWEEN 1 AND 365),
    ADD COLUMN last_active_at     timestamptz NOT NULL DEFAULT now(),
    -- It is shown no more; the row stays until the last of its documents is purged.
    ADD COLUMN deleted_at         timestamptz;
CREATE INDEX collections_expiring ON collections (last_active_at) WHERE expires_after_days IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX collections_deleted ON collections (deleted_at) WHERE deleted_at IS NOT NULL;

-- Files that were attached to a collection with one request.
CREATE TABLE file_batches (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id            uuid PRIMARY KEY,
    collection_id uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    created_at    timestamptz NOT NULL DEFAULT now(),
    cancelled_at  timestamptz
);
CREATE INDEX file_batches_collection ON file_batches (collection_id);
CREATE INDEX file_batches_age ON file_batches (created_at);
CREATE TABLE file_batch_documents (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    batch_id      uuid NOT NULL REFERENCES file_batches ON DELETE CASCADE,
    document_id   uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    PRIMARY KEY (batch_id, document_id)
);
CREATE INDEX file_batch_documents_document ON file_batch_documents (document_id);

-- A receipt is of a document or of a file.
ALTER TABLE receipts
    ALTER COLUMN document_id DROP NOT NULL,
    ADD COLUMN file_id uuid,
    ADD CHECK ((document_id IS NULL) <> (file_id IS NULL));

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['files', 'file_batches', 'file_batch_documents'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I TO riacho_service USING (tenant_id = current_tenant())', name);
        EXECUTE format('CREATE POLICY all_tenants ON %I TO riacho_janitor USING (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO riacho_service', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO riacho_janitor', name);
    END LOOP;
END
$$;
