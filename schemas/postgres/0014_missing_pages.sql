-- How certain the encoding of a text is, and the pages that have no text, with why:
-- [{"code", "message", "pages": [[first, last], ..]}, ..]
ALTER TABLE document_versions
    ADD COLUMN encoding_confidence text CHECK (encoding_confidence IN ('certain', 'declared', 'likely', 'doubtful')),
    ADD COLUMN missing_pages jsonb CHECK (jsonb_typeof(missing_pages) = 'array');
