-- A version that goes live has all its vectors in its own space: what the one before lacked there, refused or not, is over.
GRANT DELETE ON space_gaps TO riacho_service;

-- A document that is deleted lacks nothing, whoever deletes it.
CREATE FUNCTION deleted_documents_lack_nothing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM space_gaps WHERE document_id = NEW.id;
    RETURN NEW;
END
$$;
CREATE TRIGGER deleted_documents_lack_nothing BEFORE UPDATE OF deleted_at ON documents
    FOR EACH ROW WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL)
    EXECUTE FUNCTION deleted_documents_lack_nothing();

-- What is left from before.
DELETE FROM space_gaps AS g USING documents AS d WHERE d.id = g.document_id AND d.deleted_at IS NOT NULL;
DELETE FROM space_gaps AS g USING documents AS d, document_versions AS v
WHERE d.id = g.document_id AND v.document_id = d.id AND v.version = d.live_version AND v.space_id = g.space_id;
