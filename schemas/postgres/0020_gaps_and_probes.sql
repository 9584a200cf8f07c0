-- Gaps of an embedding space that are over, and whose model it is. Older gaps go with `riacho space fill ID`, which looks at them again.
--
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

-- The vectors that the space's model makes of known texts, as binary16 in little endian: another model of the same name is
-- told from it. Whoever uses the space first writes them.
ALTER TABLE embedding_spaces ADD COLUMN probe bytea;
GRANT UPDATE (probe) ON embedding_spaces TO riacho_service;
