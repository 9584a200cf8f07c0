-- What is attached to a document is counted below the version that was uploaded, comes once to each place of a version,
-- and is found when that version is.
ALTER TABLE documents
    -- The version of the document that was uploaded which it lies below.
    ADD COLUMN root_version integer CHECK (root_version > 0),
    -- No search sees it: the version that it is attached to is not live, and another one is.
    ADD COLUMN withheld     boolean NOT NULL DEFAULT false,
    ADD CHECK (parent_id IS NOT NULL OR NOT withheld);
ALTER TABLE document_versions
    -- The places whose attachments were accepted. A place stays when its document is deleted by itself, even after that
    -- was purged: what was deleted does not come back. It is free again when the document went with this version.
    ADD COLUMN attached integer[] NOT NULL DEFAULT '{}',
    -- How many were accepted below this version, however deep, less those that went with a version.
    ADD COLUMN below    integer NOT NULL DEFAULT 0 CHECK (below >= 0);

-- What is attached already; that the owner of the tables sees it needs no FORCE.
ALTER TABLE documents NO FORCE ROW LEVEL SECURITY;
ALTER TABLE document_versions NO FORCE ROW LEVEL SECURITY;
WITH RECURSIVE below AS (
    SELECT d.id, d.parent_version AS root_version, coalesce(p.live_version <> d.parent_version, false) AS withheld
    FROM documents AS d LEFT JOIN documents AS p ON p.id = d.parent_id WHERE d.depth = 1
    UNION ALL
    SELECT d.id, below.root_version, below.withheld OR coalesce(p.live_version <> d.parent_version, false)
    FROM below JOIN documents AS d ON d.parent_id = below.id JOIN documents AS p ON p.id = d.parent_id)
UPDATE documents AS d SET root_version = below.root_version, withheld = below.withheld FROM below WHERE d.id = below.id;
-- The row of a parent was purged: so are those of the versions, and nothing is counted any more.
UPDATE documents SET root_version = parent_version WHERE parent_id IS NOT NULL AND root_version IS NULL;
UPDATE document_versions AS v SET attached = taken.places
FROM (SELECT parent_id, parent_version, array_agg(DISTINCT attachment) AS places FROM documents
      WHERE deleted_at IS NULL AND parent_id IS NOT NULL GROUP BY parent_id, parent_version) AS taken
WHERE v.document_id = taken.parent_id AND v.version = taken.parent_version;
UPDATE document_versions AS v SET below = counted.documents
FROM (SELECT root_id, root_version, count(*) AS documents FROM documents
      WHERE deleted_at IS NULL AND parent_id IS NOT NULL GROUP BY root_id, root_version) AS counted
WHERE v.document_id = counted.root_id AND v.version = counted.root_version;
ALTER TABLE documents FORCE ROW LEVEL SECURITY;
ALTER TABLE document_versions FORCE ROW LEVEL SECURITY;
ALTER TABLE documents ADD CHECK ((parent_id IS NULL) = (root_version IS NULL));
DROP INDEX documents_root;

-- The owner of the function that finds chunks by their words sees of the documents what a search may find.
ALTER POLICY all_tenants_read ON documents USING (NOT withheld);
