-- A receipt also counts the entries on the streams and the dead letters that went with a document.
ALTER TABLE receipts
    ADD COLUMN entries      bigint NOT NULL DEFAULT 0,
    ADD COLUMN dead_letters bigint NOT NULL DEFAULT 0;

-- The header row of the table that a chunk goes on with, a part of what is embedded and indexed of it. It is no part of the
-- chunk's text, which is a slice of the document's (docs/adr/0006).
ALTER TABLE chunks ADD COLUMN table_header text;
