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
    filename        text NOT NULL,
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

-- Text search. People leave accents out, stemmers need them (informação and informar share a stem only
-- with them). So a text is indexed under the stems of its unaccented words, with positions, and under
-- the unaccented stems of its words; a query looks for either. The Portuguese stemmer keeps many
-- plurals of words in -ão apart; without accents they all end in -oes.
CREATE FUNCTION folded(config regconfig, body text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN config = 'pg_catalog.portuguese'::regconfig
        THEN regexp_replace(public.unaccent('public.unaccent'::regdictionary, body), 'oes\M', 'ao', 'gi')
        ELSE public.unaccent('public.unaccent'::regdictionary, body)
        END;
CREATE FUNCTION searchable(config regconfig, body text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN public.unaccent('public.unaccent'::regdictionary, body) = body
        THEN to_tsvector(config, folded(config, body))
        ELSE to_tsvector(config, folded(config, body))
            || array_to_tsvector(ARRAY(
                SELECT stem
                FROM (SELECT DISTINCT public.unaccent('public.unaccent'::regdictionary, lexeme) AS stem
                      FROM unnest(tsvector_to_array(to_tsvector(config, body))) AS lexeme) AS stems
                WHERE stem <> ''))
        END;

-- Stop words that a stemmer knows only with their accents, without them. A query leaves them out.
CREATE TABLE folded_stop_words (
    config  text COLLATE "C" NOT NULL,
    word    text NOT NULL,
    PRIMARY KEY (config, word)
);
INSERT INTO folded_stop_words
SELECT DISTINCT config, unaccent(word)
FROM (VALUES
    ('portuguese', 'até estivéramos estivéssemos está estávamos estão fôramos fôssemos houverá houverão
        houveríamos houvéramos houvéssemos há hão já não nós será serão seríamos são só também terá
        terão teríamos tivéramos tivéssemos tém tínhamos você vocês à às éramos'),
    ('spanish', 'estará estarán estarás estaré estaréis estaría estaríais estaríamos estarían estarías
        estuviéramos estuviésemos está estábamos estáis están estás esté estéis estén estés fuéramos
        fuésemos habrá habrán habrás habré habréis habría habríais habríamos habrían habrías habéis
        había habíais habíamos habían habías hayáis hubiéramos hubiésemos más mí mía mías mío míos
        qué será serán serás seré seréis sería seríais seríamos serían serías seáis sí también
        tendrá tendrán tendrás tendré tendréis tendría tendríais tendríamos tendrían tendrías
        tengáis tenéis tenía teníais teníamos tenían tenías tuviéramos tuviésemos tú él éramos'),
    ('french', 'eûmes eût eûtes fûmes fût fûtes même à étaient étais était étant étante étantes étants étiez
        étions été étée étées étés êtes'),
    ('italian', 'avrà avrò farà farò perché più sarà sarò starà starò è'),
    ('german', 'daß für können könnte während würde würden über'),
    ('danish', 'når også på sådan være været'),
    ('swedish', 'där då från för här när någon något några på själv så sådan sådana sådant varför vår våra
        vårt än är åt över'),
    ('norwegian', 'både båe då før hjå nå når også på sjøl så sånn vår være vært å'),
    ('finnish', 'eivät että heidän heidät heillä heiltä heissä heistä heitä hän häneen hänelle hänellä
        häneltä hänen hänessä hänestä hänet häntä keillä keiltä keinä keissä keistä keitä kenellä
        keneltä kenenä kenessä kenestä ketkä ketä meidän meidät meillä meiltä meissä meistä meitä
        mikä millä miltä minkä minä missä mistä mitkä mitä niillä niiltä niinä niissä niistä niitä
        näiden näihin näiksi näille näillä näiltä näinä näissä näistä näitä nämä sekä siinä siitä
        sillä siltä sinä sitä tallä teidän teidät teillä teiltä teissä teistä teitä tuotä tähän
        täksi tälle tältä tämä tämän tänä tässä tästä tätä'),
    ('hungarian', 'amíg arról aztán azután azért belül bár egyéb egész első elég elő először előtt ezért felé
        ismét jó jól keressünk keresztül kívül között közül legalább magát miért már más másik még
        míg néha néhány nélkül rá saját számára talán tehát tovább továbbá több utolsó után utána
        való által általában át én éppen és így össze úgy új újabb újra ő ők őket'),
    ('turkish', 'aslında bazı birkaç birşey eğer hiç için mü mı nasıl niçin tüm çok çünkü şey şu')
) AS stop_words (config, words), regexp_split_to_table(words, '\s+') AS word;

-- The live chunks of the current tenant that match the words of a query, the best first. `words` has
-- one query for each word; `documents` limits the answer to these, null does not.
--
-- It runs as riacho_search, which sees all tenants, and compares the tenant itself: under a policy
-- the planner may not use the text index, because the match operator is not leakproof.
--
-- The cost is bounded: a word that is in more than `bound` chunks brings only `bound` of them, those
-- that have all words first, so the rarest words decide which chunks are ranked.
CREATE FUNCTION matching_chunks(words tsquery[], documents uuid[], bound integer, top integer)
    RETURNS TABLE (document_id uuid, version integer, run_id uuid, ordinal integer, score double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    tenant      text := current_tenant();
    every_word  tsquery;
    word        tsquery;
    frequency   bigint;
    weights     double precision[] := '{}';
    rare        tsquery;
    some_word   tsquery;
BEGIN
    IF tenant IS NULL OR coalesce(cardinality(words), 0) = 0 THEN
        RETURN;
    END IF;
    FOREACH word IN ARRAY words LOOP
        EXECUTE 'SELECT count(*) FROM (SELECT FROM chunks WHERE tenant_id = $1 AND tsv @@ $2 LIMIT $3) AS found'
            INTO frequency USING tenant, word, bound;
        weights := weights || ln(1 + 4 * bound / (frequency + 0.5));
        every_word := CASE WHEN every_word IS NULL THEN word ELSE every_word && word END;
        some_word := CASE WHEN some_word IS NULL THEN word ELSE some_word || word END;
        IF frequency > 0 AND frequency < bound THEN
            rare := CASE WHEN rare IS NULL THEN word ELSE rare || word END;
        END IF;
    END LOOP;
    RETURN QUERY EXECUTE
        'WITH candidates AS (
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $3
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $6)
            UNION
            (SELECT c.document_id, c.version, c.run_id, c.ordinal, c.tsv
             FROM chunks AS c JOIN documents AS d ON d.id = c.document_id AND d.live_version = c.version AND d.live_run = c.run_id
             WHERE c.tenant_id = $1 AND d.tenant_id = $1 AND c.tsv @@ $4
               AND d.deleted_at IS NULL AND (d.expires_at IS NULL OR d.expires_at > now())
               AND ($2 IS NULL OR c.document_id = ANY ($2))
             LIMIT $6 * 2))
        SELECT c.document_id, c.version, c.run_id, c.ordinal, ranked.score
        FROM candidates AS c CROSS JOIN LATERAL (
            SELECT sum(weight * ts_rank(''{1,1,1,1}'', c.tsv, word))
                + CASE WHEN c.tsv @@ $3 THEN sum(weight) ELSE 0 END AS score
            FROM unnest($5, $8) AS terms (word, weight)) AS ranked
        ORDER BY ranked.score DESC, c.document_id, c.ordinal
        LIMIT $7'
        USING tenant, documents, every_word, coalesce(rare, some_word), words, bound, top, weights;
END
$$;
REVOKE EXECUTE ON FUNCTION matching_chunks FROM PUBLIC;
GRANT EXECUTE ON FUNCTION matching_chunks TO riacho_service;
GRANT CREATE ON SCHEMA public TO riacho_search;
ALTER FUNCTION matching_chunks OWNER TO riacho_search;
REVOKE CREATE ON SCHEMA public FROM riacho_search;

-- The tenants whose intake streams a gateway reads: ids only, and only of active ones.
CREATE FUNCTION active_tenants() RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public
    BEGIN ATOMIC
        SELECT id FROM tenants WHERE state = 'active' ORDER BY id;
    END;

-- Row-level security, forced on every table with a tenant.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['api_keys', 'collections', 'documents', 'document_versions', 'chunks',
        'tenant_languages', 'idempotency_keys', 'intake_events', 'dead_letters', 'receipts'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I TO riacho_service USING (tenant_id = current_tenant())', name);
        EXECUTE format('CREATE POLICY all_tenants ON %I TO riacho_janitor USING (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO riacho_service, riacho_janitor', name);
    END LOOP;
END
$$;
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON tenants TO riacho_service USING (id = current_tenant());
CREATE POLICY all_tenants ON tenants TO riacho_janitor USING (true);
CREATE POLICY names_of_active ON tenants FOR SELECT TO CURRENT_USER USING (state = 'active');
GRANT SELECT ON tenants TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenants TO riacho_janitor;
-- A key is looked up by its public id before its tenant is known: that one row and no other.
CREATE POLICY own_key ON api_keys FOR SELECT TO riacho_service
    USING (id = nullif(current_setting('riacho.key_id', true), ''));
CREATE POLICY tenant_of_key ON tenants FOR SELECT TO riacho_service
    USING (id = (SELECT k.tenant_id FROM api_keys AS k WHERE k.id = nullif(current_setting('riacho.key_id', true), '')));
REVOKE DELETE ON api_keys, documents, document_versions, chunks, receipts, dead_letters FROM riacho_service;

-- What the text search function reads; see below its definition, and docs/adr/0007.
CREATE POLICY all_tenants_read ON documents FOR SELECT TO riacho_search USING (true);
CREATE POLICY all_tenants_read ON chunks FOR SELECT TO riacho_search USING (true);
GRANT SELECT ON documents, chunks TO riacho_search;

GRANT SELECT ON embedding_spaces, topology, schedules, leases TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON topology, leases, schedules TO riacho_janitor;
GRANT SELECT, UPDATE ON embedding_spaces TO riacho_janitor;
GRANT SELECT ON state_transitions, folded_stop_words TO riacho_service, riacho_janitor;
REVOKE EXECUTE ON FUNCTION active_tenants() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION active_tenants() TO riacho_service, riacho_janitor;
