-- Files attached to a document are documents of their own: of which version of which document, in which place, in
-- which document that was uploaded, and how deep in it. The row of a parent may be purged before those below it.
ALTER TABLE documents
    ADD COLUMN parent_id      uuid,
    ADD COLUMN parent_version integer CHECK (parent_version > 0),
    ADD COLUMN attachment     integer CHECK (attachment > 0),
    ADD COLUMN root_id        uuid,
    ADD COLUMN depth          smallint NOT NULL DEFAULT 0 CHECK (depth BETWEEN 0 AND 3),
    ADD CHECK ((parent_id IS NULL) = (depth = 0)),
    ADD CHECK ((parent_id IS NULL) = (parent_version IS NULL) AND (parent_id IS NULL) = (attachment IS NULL)
        AND (parent_id IS NULL) = (root_id IS NULL));
CREATE UNIQUE INDEX documents_attachments ON documents (parent_id, parent_version, attachment)
    WHERE parent_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX documents_root ON documents (root_id) WHERE root_id IS NOT NULL;
