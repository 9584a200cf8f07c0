-- Chunks with the same content have the same vector: what is to be embedded is looked up here first, by the hash of
-- all that is embedded of it, so that only what is new reaches a model (docs/adr/0015).
CREATE INDEX chunks_content ON chunks (tenant_id, content_hash);
