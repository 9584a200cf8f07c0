-- Files attached to a document are documents of their own: of which version of which document, in which place, below
-- which version of which document that was uploaded, and how deep in it. The row of a parent may be purged before those
-- below it.
ALTER TABLE documents
    ADD COLUMN parent_id      uuid,
    ADD COLUMN parent_version integer CHECK (parent_version > 0),
    ADD COLUMN attachment     integer CHECK (attachment > 0),
    ADD COLUMN root_id        uuid,
    ADD COLUMN root_version   integer CHECK (root_version > 0),
    ADD COLUMN depth          smallint NOT NULL DEFAULT 0 CHECK (depth BETWEEN 0 AND 3),
    -- No search sees it: what it is attached to is not live, and another version of that is.
    ADD COLUMN withheld       boolean NOT NULL DEFAULT false,
    ADD CHECK ((parent_id IS NULL) = (depth = 0)),
    ADD CHECK (parent_id IS NOT NULL OR NOT withheld),
    ADD CHECK ((parent_id IS NULL) = (parent_version IS NULL) AND (parent_id IS NULL) = (attachment IS NULL)
        AND (parent_id IS NULL) = (root_id IS NULL) AND (parent_id IS NULL) = (root_version IS NULL));
CREATE UNIQUE INDEX documents_attachments ON documents (parent_id, parent_version, attachment)
    WHERE parent_id IS NOT NULL AND deleted_at IS NULL;

ALTER TABLE document_versions
    -- The places whose attachments were accepted. A place stays when its document is deleted by itself, even after that
    -- was purged: what was deleted does not come back. It is free again when the document went with this version.
    ADD COLUMN attached integer[] NOT NULL DEFAULT '{}',
    -- How many were accepted below this version, however deep, less those that went with a version.
    ADD COLUMN below    integer NOT NULL DEFAULT 0 CHECK (below >= 0);

-- The owner of the function that finds chunks by their words sees of the documents what a search may find.
ALTER POLICY all_tenants_read ON documents USING (NOT withheld);
