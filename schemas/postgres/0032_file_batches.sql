-- Files that could not be attached with their batch, and why. The file may be gone, or be attached later: nothing refers to it.
CREATE TABLE file_batch_refusals (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    batch_id      uuid NOT NULL REFERENCES file_batches ON DELETE CASCADE,
    file_id       uuid NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    error_code    text NOT NULL,
    error_message text NOT NULL,
    PRIMARY KEY (batch_id, file_id)
);
ALTER TABLE file_batch_refusals ENABLE ROW LEVEL SECURITY;
ALTER TABLE file_batch_refusals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON file_batch_refusals TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON file_batch_refusals TO riacho_janitor USING (true);
GRANT SELECT, INSERT ON file_batch_refusals TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON file_batch_refusals TO riacho_janitor;
