-- What a tenant's embeddings cost, by month (UTC) and model. Money is in thousand-millionths of the currency that the
-- configuration's prices are in, counted at the price of the moment.
CREATE TABLE embedding_spend (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    month       date NOT NULL CHECK (extract(day FROM month) = 1),
    model       text COLLATE "C" NOT NULL,
    texts       bigint NOT NULL,
    tokens      bigint NOT NULL,
    requests    bigint NOT NULL,
    money_nanos bigint NOT NULL,
    PRIMARY KEY (tenant_id, month, model)
);
ALTER TABLE embedding_spend ENABLE ROW LEVEL SECURITY;
ALTER TABLE embedding_spend FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON embedding_spend TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON embedding_spend TO riacho_janitor USING (true);
GRANT SELECT, INSERT, UPDATE ON embedding_spend TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON embedding_spend TO riacho_janitor;

-- The janitor's word, like `over_quota`: the month's budgets that are used up. Documents of such a tenant wait.
ALTER TABLE tenants
    ADD COLUMN over_budget text[] NOT NULL DEFAULT '{}' CHECK (over_budget <@ ARRAY['tokens', 'money']),
    DROP CONSTRAINT tenants_held_by_check,
    ADD CONSTRAINT tenants_held_by_check CHECK (held_by IN ('tenant', 'total', 'waiting', 'budget'));
