-- A tenant over its budget may go on with a fallback space: of a model that costs nothing, beside the live one.
--
-- `fallback` takes the documents of such tenants and nothing else: it is not filled, and what it lacks is not written down. What
-- the live space lacks of these documents stands in `space_gaps`, as ever.
ALTER TABLE embedding_spaces
    DROP CONSTRAINT embedding_spaces_state_check,
    ADD CONSTRAINT embedding_spaces_state_check CHECK (state IN ('building', 'live', 'standby', 'fallback', 'retired'));
CREATE UNIQUE INDEX embedding_spaces_one_fallback ON embedding_spaces (state) WHERE state = 'fallback';

-- The janitor's word, like `over_budget`: what the tenant's limits say of documents that come when a budget is used up.
ALTER TABLE tenants ADD COLUMN wants_fallback boolean NOT NULL DEFAULT false;

-- The space that a release of the tenant is pinned to.
CREATE FUNCTION release_space(tenant text) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT s.id FROM embedding_spaces AS s JOIN tenants AS t ON t.id = tenant AND t.wants_fallback AND t.over_budget <> '{}'
         WHERE s.state = 'fallback'),
        (SELECT id FROM embedding_spaces WHERE state = 'live'))
$$;

-- What the fallback's model embeds counts towards no budget.
ALTER TABLE embedding_spend
    DROP CONSTRAINT embedding_spend_purpose_check,
    ADD CONSTRAINT embedding_spend_purpose_check CHECK (purpose IN ('documents', 'queries', 'spaces', 'fallback'));

-- Whether the live space lacks documents of a tenant is asked by each of its searches.
CREATE INDEX space_gaps_tenant ON space_gaps (space_id, tenant_id);
