-- The tables of the pipeline. Forward only: once landed, this file never changes.
--
-- Four roles: the owner of the tables runs migrations and nothing else; riacho_service is what
-- every service works as; riacho_janitor is what tasks over all tenants work as; riacho_search owns
-- the one function that reads the text index (see docs/adr/0007). Row-level security is forced, so
-- that not even the owner reads a tenant's rows by accident.

-- unaccent and btree_gin are trusted: the database's owner may create them. pgvector is not; where
-- the owner is no superuser, an administrator creates it beforehand.
CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS unaccent;
CREATE EXTENSION IF NOT EXISTS btree_gin;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['riacho_service', 'riacho_janitor', 'riacho_search'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                -- Roles belong to the server: a migration of another database was faster.
                NULL;
            END;
        END IF;
        -- So that one login may serve a small deployment: it works as the role after SET ROLE, and
        -- without it has none of the role's rights.
        IF NOT pg_has_role(current_user, name, 'SET') THEN
            EXECUTE format('GRANT %I TO CURRENT_USER WITH INHERIT FALSE, SET TRUE', name);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', name);
    END LOOP;
END
$$;

-- The tenant of the current transaction; null means that no tenant's rows are visible.
CREATE FUNCTION current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('riacho.tenant', true), '');

CREATE TABLE tenants (
    id          text COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    name        text NOT NULL,
    state       text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'suspended', 'deleting')),
    settings    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Only a hash of the secret is kept; `id` is the public part of the key.
CREATE TABLE api_keys (
    id            text COLLATE "C" PRIMARY KEY,
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    name          text NOT NULL,
    secret_hash   bytea NOT NULL CHECK (length(secret_hash) = 32),
    scopes        text[] NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id);

CREATE TABLE collections (
    tenant_id   text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id          uuid PRIMARY KEY,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    settings    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);

-- A model with its dimensions. Its vectors stand in a table of their own, vectors_<id>.
CREATE TABLE embedding_spaces (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model       text NOT NULL,
    dimensions  integer NOT NULL CHECK (dimensions BETWEEN 1 AND 4000),
    state       text NOT NULL CHECK (state IN ('building', 'live', 'retired')),
    -- Vectors with seq up to this one are in the HNSW index; newer ones are searched exactly.
    indexed_seq bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (model, dimensions)
);
CREATE UNIQUE INDEX embedding_spaces_one_live ON embedding_spaces ((true)) WHERE state = 'live';

CREATE TABLE documents (
    tenant_id       text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    id              uuid PRIMARY KEY,
    collection_id   uuid NOT NULL REFERENCES collections,
    external_id     text CHECK (length(external_id) BETWEEN 1 AND 512),
    metadata        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    latest_version  integer NOT NULL CHECK (latest_version > 0),
    -- What a search sees: a version and the run that cut its chunks. Both or neither.
    live_version    integer CHECK (live_version > 0),
    live_run        uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz,
    deleted_at      timestamptz,
    CHECK ((live_version IS NULL) = (live_run IS NULL))
);
CREATE UNIQUE INDEX documents_external_id ON documents (tenant_id, external_id)
    WHERE external_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX documents_collection ON documents (collection_id);
CREATE INDEX documents_by_time ON documents (tenant_id, created_at DESC, id DESC);
CREATE INDEX documents_expiring ON documents (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX documents_deleted ON documents (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE state_transitions (
    from_state  text NOT NULL,
    to_state    text NOT NULL,
    PRIMARY KEY (from_state, to_state)
);
INSERT INTO state_transitions
SELECT f, t
FROM (VALUES
    ('awaiting_upload', '{waiting,releasing,cancelled,expired,failed}'::text[]),
    ('waiting', '{releasing,cancelled,expired,failed}'),
    ('releasing', '{waiting,extracting,embedding,indexing,ready,failed,cancelled,expired}'),
    ('extracting', '{waiting,releasing,embedding,indexing,ready,failed,cancelled,expired}'),
    ('embedding', '{waiting,releasing,indexing,ready,failed,cancelled,expired}'),
    ('indexing', '{waiting,releasing,ready,failed,cancelled,expired}'),
    ('ready', '{waiting,releasing,expired}'),
    ('failed', '{waiting,releasing,expired}'),
    ('cancelled', '{waiting,releasing,expired}')
) AS legal (f, ts), unnest(ts) AS t;

CREATE TABLE document_versions (
    tenant_id         text COLLATE "C" NOT NULL,
    document_id       uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    version           integer NOT NULL CHECK (version > 0),
    state             text NOT NULL CHECK (state IN ('awaiting_upload', 'waiting', 'releasing', 'extracting',
                          'embedding', 'indexing', 'ready', 'failed', 'cancelled', 'expired')),
    lane              text NOT NULL CHECK (lane IN ('interactive', 'bulk', 'background')),

    -- The original.
    object_key        text NOT NULL,
    filename          text NOT NULL,
    content_type      text NOT NULL DEFAULT '',
    size              bigint CHECK (size >= 0),
    sha256            bytea CHECK (length(sha256) = 32),
    original_purged_at timestamptz,
    upload_expires_at timestamptz,

    -- How it is cut: {"max_tokens", "overlap_tokens", "tokenizer"}.
    chunking          jsonb NOT NULL,
    -- What the version makes the document's when it goes live, and at once where none is live yet. Null:
    -- as the document has it. The bytes of a version that is awaited settle what it did not name.
    collection_id     uuid REFERENCES collections ON DELETE SET NULL,
    metadata          jsonb CHECK (jsonb_typeof(metadata) = 'object'),
    expires_at        timestamptz,

    -- Hash of collection, metadata and settings: same bytes and same fingerprint are the same document.
    fingerprint       bytea NOT NULL CHECK (length(fingerprint) = 32),

    -- The release: fixed before the entry is on a stream, named by every write of a stage.
    release_id        uuid,
    partition         smallint CHECK (partition >= 0),
    space_id          integer REFERENCES embedding_spaces,
    released_at       timestamptz,
    deadline          timestamptz,
    stalls            integer NOT NULL DEFAULT 0,
    losses            integer NOT NULL DEFAULT 0,
    -- How often an extraction began without a seal: more than once, and runs that lost may have left
    -- rows and objects.
    extractions       integer NOT NULL DEFAULT 0,
    traceparent       text NOT NULL DEFAULT '',

    -- The sealed run: the first to seal is the version.
    run_id            uuid,
    manifest          bytea,
    chunk_total       integer CHECK (chunk_total > 0),
    -- Rows of indexed_run in the pinned space that are written. Kept under this row's lock, so it is
    -- exact. Null: nothing was written yet. The nil UUID: rows may be there and have to be counted.
    indexed_run       uuid,
    chunks_indexed    integer NOT NULL DEFAULT 0,

    detected_type     text,
    encoding          text,
    language          text,
    pages_total       integer,
    pages_done        integer NOT NULL DEFAULT 0,

    error_code        text,
    error_message     text,
    -- Why a version was cancelled: `command` or `superseded`.
    ended_by          text CHECK (ended_by IN ('command', 'superseded')),

    created_at        timestamptz NOT NULL DEFAULT now(),
    state_changed_at  timestamptz NOT NULL DEFAULT now(),
    started_at        timestamptz,
    sealed_at         timestamptz,
    finished_at       timestamptz,
    -- Set when chunks and objects of a version that is no longer live are gone.
    purged_at         timestamptz,
    -- Set when what the lost runs of a finished version left is gone.
    strays_purged_at  timestamptz,

    PRIMARY KEY (document_id, version),
    CHECK ((run_id IS NULL) = (manifest IS NULL) AND (run_id IS NULL) = (chunk_total IS NULL)),
    CHECK ((state = 'failed') = (error_code IS NOT NULL)),
    CHECK ((state = 'cancelled') = (ended_by IS NOT NULL)),
    CHECK (state NOT IN ('releasing', 'extracting', 'embedding', 'indexing')
        OR (release_id IS NOT NULL AND partition IS NOT NULL AND space_id IS NOT NULL AND deadline IS NOT NULL))
);
CREATE INDEX document_versions_tenant ON document_versions (tenant_id, document_id);
CREATE INDEX document_versions_same_bytes ON document_versions (tenant_id, sha256);
CREATE INDEX document_versions_collection ON document_versions (collection_id);
-- By urgency: interactive, bulk and background happen to be in descending order.
CREATE INDEX document_versions_waiting ON document_versions (tenant_id, lane DESC, created_at) WHERE state = 'waiting';
CREATE INDEX document_versions_in_flight ON document_versions (state_changed_at)
    WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing');
CREATE INDEX document_versions_uploads ON document_versions (upload_expires_at) WHERE state = 'awaiting_upload';
CREATE INDEX document_versions_object ON document_versions (object_key);
CREATE INDEX document_versions_originals ON document_versions (finished_at)
    WHERE finished_at IS NOT NULL AND original_purged_at IS NULL;
CREATE INDEX document_versions_unpurged ON document_versions (finished_at)
    WHERE finished_at IS NOT NULL AND purged_at IS NULL;

CREATE FUNCTION check_state_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM state_transitions WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'document version % of % may not go from % to %', OLD.version, OLD.document_id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'legal_state_transition';
    END IF;
    NEW.state_changed_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER legal_state_transition BEFORE UPDATE OF state ON document_versions
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION check_state_transition();

-- Chunks of a run. A run that lost the seal leaves rows that nothing points at; purge removes them.
CREATE TABLE chunks (
    tenant_id     text COLLATE "C" NOT NULL,
    document_id   uuid NOT NULL,
    version       integer NOT NULL,
    run_id        uuid NOT NULL,
    ordinal       integer NOT NULL CHECK (ordinal >= 0),
    text          text NOT NULL,
    byte_start    bigint NOT NULL,
    byte_end      bigint NOT NULL,
    char_start    bigint NOT NULL,
    char_end      bigint NOT NULL,
    page_first    integer NOT NULL,
    page_last     integer NOT NULL,
    heading_path  text[] NOT NULL,
    token_count   integer NOT NULL,
    content_hash  bytea NOT NULL,
    -- The name of the text search configuration; the type regconfig would stop pg_upgrade.
    config        text COLLATE "C" NOT NULL,
    tsv           tsvector NOT NULL,
    PRIMARY KEY (tenant_id, document_id, version, run_id, ordinal)
)
-- A chunk fits its page as it is. Compressed, it would cost as much to write as its index entries.
WITH (toast_tuple_target = 8160);
-- With the tenant in the index, a word that is frequent elsewhere costs a small tenant nothing.
CREATE INDEX chunks_tsv ON chunks USING gin (tenant_id, tsv);

-- The text search configurations that a tenant's chunks are indexed with; a query is stemmed by each.
CREATE TABLE tenant_languages (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    config        text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, config)
);

-- Answers to requests that carried an Idempotency-Key.
CREATE TABLE idempotency_keys (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    key           text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    request_hash  bytea NOT NULL,
    document_id   uuid NOT NULL,
    version       integer NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- Producers' events: owed from the moment the row exists, answered on the results stream.
CREATE TABLE intake_events (
    tenant_id     text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    source        text NOT NULL,
    event_id      text NOT NULL,
    document_id   uuid,
    version       integer,
    error_code    text,
    error_message text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, source, event_id),
    CHECK ((document_id IS NULL) = (error_code IS NOT NULL))
);
CREATE INDEX intake_events_age ON intake_events (created_at);

-- Entries that could not be processed. An entry that could not even be decoded has no tenant, and
-- only the janitor's role sees it.
CREATE TABLE dead_letters (
    id            uuid PRIMARY KEY,
    tenant_id     text COLLATE "C" REFERENCES tenants ON DELETE CASCADE,
    document_id   uuid,
    version       integer,
    release_id    uuid,
    stage         text NOT NULL,
    stream        text NOT NULL,
    entry_id      text NOT NULL,
    reason_code   text NOT NULL,
    message       text NOT NULL,
    attempts      integer NOT NULL,
    trace_id      text NOT NULL DEFAULT '',
    original      bytea NOT NULL,
    occurred_at   timestamptz NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    resolved_at   timestamptz,
    resolution    text CHECK (resolution IN ('replayed', 'discarded')),
    UNIQUE (stream, entry_id)
);
CREATE INDEX dead_letters_tenant ON dead_letters (tenant_id, created_at DESC);
CREATE INDEX dead_letters_document ON dead_letters (document_id);

-- What a purge removed.
CREATE TABLE receipts (
    id            uuid PRIMARY KEY,
    tenant_id     text COLLATE "C" NOT NULL,
    document_id   uuid NOT NULL,
    versions      integer NOT NULL,
    chunks        bigint NOT NULL,
    vectors       bigint NOT NULL,
    objects       bigint NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX receipts_document ON receipts (document_id);

-- The partitions in use. Readers take up an active or draining one; writers use active ones only.
CREATE TABLE topology (
    partition     smallint PRIMARY KEY CHECK (partition >= 0),
    state         text NOT NULL CHECK (state IN ('active', 'draining'))
);
INSERT INTO topology VALUES (0, 'active');

-- Leadership by lease, on the database's clock. The token grows with each new holder.
CREATE TABLE leases (
    name          text PRIMARY KEY,
    holder        text NOT NULL,
    token         bigint NOT NULL,
    expires_at    timestamptz NOT NULL
);

-- Janitor tasks: when each last ran, and how it went.
CREATE TABLE schedules (
    task          text PRIMARY KEY,
    last_started  timestamptz,
    last_finished timestamptz,
    last_outcome  text,
    last_summary  jsonb,
    runs          bigint NOT NULL DEFAULT 0,
    failures      bigint NOT NULL DEFAULT 0
);
