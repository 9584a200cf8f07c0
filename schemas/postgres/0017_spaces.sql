-- Embedding spaces beside each other: one is searched, others are filled from stored chunks until nothing is missing.
--
-- `standby` was live before and is kept complete, so that one can go back; `retired` is not used any more, and its table
-- of vectors goes some time later (`dropped_at`). An id is never used again.
ALTER TABLE embedding_spaces
    -- Chunks a second that the space is filled with at most. Null: as configured; 0: it is not filled.
    ADD COLUMN per_second integer CHECK (per_second BETWEEN 0 AND 1000000),
    -- Documents up to this id were looked at, of those that were searchable when the space was made. All: `seeded_at`.
    ADD COLUMN seed_cursor uuid,
    ADD COLUMN seeded_at timestamptz,
    -- What was searchable then is in the space.
    ADD COLUMN complete_at timestamptz,
    -- Chunks that were filled in, ever.
    ADD COLUMN filled bigint NOT NULL DEFAULT 0,
    -- Why it is not filled at the moment.
    ADD COLUMN trouble text,
    ADD COLUMN state_changed_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN dropped_at timestamptz,
    DROP CONSTRAINT embedding_spaces_state_check,
    ADD CONSTRAINT embedding_spaces_state_check CHECK (state IN ('building', 'live', 'standby', 'retired')),
    DROP CONSTRAINT embedding_spaces_model_dimensions_key;
UPDATE embedding_spaces SET seeded_at = now(), complete_at = now() WHERE state = 'live';
CREATE UNIQUE INDEX embedding_spaces_one_of_a_model ON embedding_spaces (model, dimensions) WHERE state <> 'retired';
-- As a constraint it is looked at after the statement and not after each row: one statement switches.
DROP INDEX embedding_spaces_one_live;
ALTER TABLE embedding_spaces
    ADD CONSTRAINT embedding_spaces_one_live EXCLUDE USING btree ((true) WITH =) WHERE (state = 'live') DEFERRABLE;

-- Documents whose live version may lack vectors in a space. A row is written in the transaction that makes a version
-- live in another space, and goes in the one that writes the last missing vector.
CREATE SEQUENCE space_gaps_mark;
CREATE TABLE space_gaps (
    space_id     integer NOT NULL,
    tenant_id    text COLLATE "C" NOT NULL,
    document_id  uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    -- Another one each time that a version goes live, so that whoever filled the one before closes nothing.
    mark         bigint NOT NULL DEFAULT nextval('space_gaps_mark'),
    -- Chunks of the version, and up to which one nothing is missing.
    chunks       integer NOT NULL,
    next_ordinal integer NOT NULL DEFAULT 0,
    -- Why some of its chunks have no vector: the model refuses them.
    refused      text,
    PRIMARY KEY (space_id, document_id)
);
CREATE INDEX space_gaps_in_order ON space_gaps (space_id, mark);
CREATE INDEX space_gaps_document ON space_gaps (document_id);
ALTER TABLE space_gaps ENABLE ROW LEVEL SECURITY;
ALTER TABLE space_gaps FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON space_gaps TO riacho_service USING (tenant_id = current_tenant());
CREATE POLICY all_tenants ON space_gaps TO riacho_janitor USING (true);
GRANT SELECT, INSERT, UPDATE ON space_gaps TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON space_gaps TO riacho_janitor;
GRANT USAGE ON SEQUENCE space_gaps_mark TO riacho_service, riacho_janitor;
