-- What a tenant may use. `limits` has what was set for this tenant; the rest is the deployment's. `over_quota` is
-- the janitor's word to the gateways, measured every few seconds: the quotas that are used up.
ALTER TABLE tenants
    ADD COLUMN limits jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    ADD COLUMN over_quota text[] NOT NULL DEFAULT '{}'
        CHECK (over_quota <@ ARRAY['documents', 'bytes', 'unfinished']);
