-- Webhooks: addresses that are told what became of a tenant's documents, and the outbox of what they are told. A delivery is
-- written by the transaction that makes it true.
CREATE TABLE webhooks (
    id              uuid PRIMARY KEY,
    tenant_id       text COLLATE "C" NOT NULL REFERENCES tenants ON DELETE CASCADE,
    url             text NOT NULL CHECK (length(url) BETWEEN 1 AND 2000),
    events          text[] NOT NULL CHECK (cardinality(events) > 0
        AND events <@ ARRAY['document.ready', 'document.failed', 'document.deleted', 'summary']),
    description     text NOT NULL DEFAULT '' CHECK (length(description) <= 200),
    -- What deliveries are signed with. Whoever makes a webhook writes it; only the janitor, which signs, reads it.
    secret          bytea NOT NULL CHECK (length(secret) = 32),
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- Since when nothing came through; null: the last delivery did.
    failing_since   timestamptz,
    disabled_at     timestamptz,
    disabled_reason text,
    CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
);
CREATE INDEX webhooks_tenant ON webhooks (tenant_id, created_at);

CREATE TABLE webhook_deliveries (
    -- The id that the receiver sees, the same with each attempt.
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id       text COLLATE "C" NOT NULL,
    webhook_id      uuid NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event           text NOT NULL,
    -- The bytes that are sent and signed.
    payload         text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts        integer NOT NULL DEFAULT 0,
    -- Null: it was delivered, or given up.
    next_attempt    timestamptz DEFAULT clock_timestamp(),
    last_attempt    timestamptz,
    last_status     integer,
    last_error      text,
    delivered_at    timestamptz,
    given_up_at     timestamptz
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (webhook_id, next_attempt) WHERE next_attempt IS NOT NULL;
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_id, created_at DESC, id DESC);
CREATE INDEX webhook_deliveries_age ON webhook_deliveries (created_at);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['webhooks', 'webhook_deliveries'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant_only ON %I TO riacho_service USING (tenant_id = current_tenant())', name);
        EXECUTE format('CREATE POLICY all_tenants ON %I TO riacho_janitor USING (true)', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO riacho_janitor', name);
    END LOOP;
END
$$;
GRANT SELECT (id, tenant_id, url, events, description, created_at, failing_since, disabled_at, disabled_reason), INSERT, DELETE,
    UPDATE (failing_since, disabled_at, disabled_reason) ON webhooks TO riacho_service;
GRANT SELECT, INSERT (tenant_id, webhook_id, event, payload), UPDATE (next_attempt, attempts, given_up_at, delivered_at)
    ON webhook_deliveries TO riacho_service;

-- A time as JSON has it.
CREATE FUNCTION json_time(at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Writes what happened into the outbox of each webhook that wants it.
CREATE FUNCTION tell_webhooks(tenant text, kind text, about jsonb) RETURNS bigint LANGUAGE sql AS $$
    WITH told AS (
        INSERT INTO webhook_deliveries (tenant_id, webhook_id, event, payload)
        SELECT tenant, w.id, kind, jsonb_build_object('type', kind, 'timestamp', json_time(now()), 'data', about)::text
        FROM webhooks AS w
        WHERE w.tenant_id = tenant AND w.disabled_at IS NULL AND kind = ANY (w.events)
        RETURNING 1)
    SELECT count(*) FROM told
$$;

CREATE FUNCTION tell_of_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    about jsonb;
BEGIN
    -- Most tenants have none, and most versions of the others want no more than this look.
    IF NOT EXISTS (SELECT FROM webhooks WHERE tenant_id = NEW.tenant_id AND disabled_at IS NULL) THEN
        RETURN NULL;
    END IF;
    SELECT jsonb_build_object('tenant', NEW.tenant_id, 'document_id', NEW.document_id, 'version', NEW.version, 'state', NEW.state,
               'filename', NEW.filename, 'external_id', d.external_id)
        INTO about FROM documents AS d WHERE d.id = NEW.document_id;
    IF NEW.state = 'failed' THEN
        about := about || jsonb_build_object('error', jsonb_build_object('code', NEW.error_code, 'message', NEW.error_message));
    ELSE
        about := about || jsonb_build_object('chunks', NEW.chunk_total);
    END IF;
    PERFORM tell_webhooks(NEW.tenant_id, 'document.' || NEW.state, about);
    RETURN NULL;
END
$$;
CREATE TRIGGER webhooks_told AFTER UPDATE OF state ON document_versions
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state AND NEW.state IN ('ready', 'failed')) EXECUTE FUNCTION tell_of_version();

CREATE FUNCTION tell_of_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- With its tenant a document goes unsaid.
    IF EXISTS (SELECT FROM tenants WHERE id = NEW.tenant_id AND state <> 'deleting') THEN
        PERFORM tell_webhooks(NEW.tenant_id, 'document.deleted',
            jsonb_build_object('tenant', NEW.tenant_id, 'document_id', NEW.id, 'external_id', NEW.external_id,
                               'version', NEW.latest_version));
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER webhooks_told AFTER UPDATE OF deleted_at ON documents
    FOR EACH ROW WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION tell_of_deletion();

-- Webhooks in the log of who did what. A row says which; the rest stands in the log when it was made.
CREATE FUNCTION note_act_on_webhook() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    acting text := nullif(current_setting('riacho.actor', true), '');
    one    record;
BEGIN
    IF acting IS NULL THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN one := OLD; ELSE one := NEW; END IF;
    INSERT INTO audit (tenant_id, actor, action, target, outcome, detail)
    VALUES (one.tenant_id, acting,
            CASE TG_OP WHEN 'INSERT' THEN 'webhook.create' WHEN 'DELETE' THEN 'webhook.delete' ELSE 'webhook.enable' END,
            one.id::text, 'ok', jsonb_build_object('events', one.events));
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_changed AFTER INSERT OR DELETE ON webhooks FOR EACH ROW EXECUTE FUNCTION note_act_on_webhook();
CREATE TRIGGER audit_enabled AFTER UPDATE OF disabled_at ON webhooks
    FOR EACH ROW WHEN (OLD.disabled_at IS NOT NULL AND NEW.disabled_at IS NULL) EXECUTE FUNCTION note_act_on_webhook();
