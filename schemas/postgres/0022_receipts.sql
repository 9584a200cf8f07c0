-- A receipt also counts the entries on the streams and the dead letters that went with a document.
ALTER TABLE receipts
    ADD COLUMN entries      bigint NOT NULL DEFAULT 0,
    ADD COLUMN dead_letters bigint NOT NULL DEFAULT 0;
