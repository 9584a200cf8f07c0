-- What a tenant's embeddings cost, by month (UTC), model and purpose. Money is in thousand-millionths of the currency that the
-- configuration's prices are in, counted at the price of the moment.
CREATE TABLE embedding_spend (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    month       date NOT NULL CHECK (extract(day FROM month) = 1),
    model       text COLLATE "C" NOT NULL,
    -- Documents on their way, queries of searches, or spaces that an operator lets be filled: these count towards no budget.
    purpose     text COLLATE "C" NOT NULL CHECK (purpose IN ('documents', 'queries', 'spaces')),
    texts       bigint NOT NULL,
    tokens      bigint NOT NULL,
    requests    bigint NOT NULL,
    money_nanos bigint NOT NULL,
    PRIMARY KEY (tenant_id, month, model, purpose)
);
CREATE INDEX embedding_spend_month ON embedding_spend (month);
ALTER TABLE embedding_spend ENABLE ROW LEVEL SECURITY;
ALTER TABLE embedding_spend FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON embedding_spend TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON embedding_spend TO riacho_janitor USING (true);
GRANT SELECT, INSERT, UPDATE ON embedding_spend TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON embedding_spend TO riacho_janitor;

-- The janitor's word, like `over_quota`: the month's budgets that are used up, the tenant's own and those of all tenants
-- together (`total_`). Documents of such a tenant wait.
ALTER TABLE tenants
    ADD COLUMN over_budget text[] NOT NULL DEFAULT '{}'
        CHECK (over_budget <@ ARRAY['tokens', 'money', 'total_tokens', 'total_money']),
    DROP CONSTRAINT tenants_held_by_check,
    ADD CONSTRAINT tenants_held_by_check CHECK (held_by IN ('tenant', 'total', 'waiting', 'budget', 'total_budget'));
