-- Pauses of stages. A pause is over with `resumed_at`; then the deadlines of what waited are prolonged, and it is settled. Until
-- then nothing fails for its deadline.
CREATE TABLE stage_pauses (
    id          uuid PRIMARY KEY,
    stage       text NOT NULL CHECK (stage IN ('extract', 'embed', 'index')),
    paused_at   timestamptz NOT NULL DEFAULT now(),
    paused_by   text NOT NULL CHECK (length(paused_by) BETWEEN 1 AND 200),
    reason      text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
    resumed_at  timestamptz,
    resumed_by  text,
    settled_at  timestamptz,
    CHECK ((resumed_at IS NULL) = (resumed_by IS NULL)),
    CHECK (settled_at IS NULL OR resumed_at IS NOT NULL)
);
CREATE UNIQUE INDEX stage_pauses_one_at_a_time ON stage_pauses (stage) WHERE resumed_at IS NULL;
CREATE INDEX stage_pauses_unsettled ON stage_pauses (paused_at) WHERE settled_at IS NULL;
GRANT SELECT, INSERT (id, stage, paused_by, reason), UPDATE (resumed_at, resumed_by) ON stage_pauses TO riacho_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON stage_pauses TO riacho_janitor;

-- Who did what. Rows are added and read, never changed; they outlive what they are about.
CREATE TABLE audit (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Whose act it was, or on whom; null where it was the deployment's and nobody's in particular.
    tenant_id   text COLLATE "C",
    -- `key:` with the public part of an API key, or `cli:` with the login of whoever ran a command.
    actor       text NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    action      text NOT NULL,
    target      text NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed')),
    detail      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_tenant ON audit (tenant_id, at DESC, id DESC);
CREATE INDEX audit_time ON audit (at DESC, id DESC);
ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_only ON audit FOR SELECT TO riacho_service USING (tenant_id = current_tenant());
-- What an operator does is about no tenant; it stands with those of the tenant that the operator's key is of.
CREATE POLICY own_acts ON audit FOR INSERT TO riacho_service
    WITH CHECK (tenant_id = current_tenant() OR tenant_id = nullif(current_setting('riacho.actor_tenant', true), ''));
CREATE POLICY all_tenants ON audit TO riacho_janitor USING (true);
GRANT SELECT, INSERT ON audit TO riacho_service;
GRANT SELECT, INSERT, DELETE ON audit TO riacho_janitor;

-- Writes down what a transaction changes, with it, where the transaction names who acts. What the services do by themselves
-- names nobody.
CREATE FUNCTION note_act() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    acting     text := nullif(current_setting('riacho.actor', true), '');
    acts_for   text := nullif(current_setting('riacho.actor_tenant', true), '');
    act        text;
    whose      text;
    what       text;
    more       jsonb := '{}';
BEGIN
    IF acting IS NULL THEN
        RETURN NULL;
    END IF;
    CASE TG_TABLE_NAME
        WHEN 'api_keys' THEN
            act := CASE WHEN TG_OP = 'INSERT' THEN 'key.create' ELSE 'key.revoke' END;
            whose := NEW.tenant_id; what := NEW.id;
            more := jsonb_build_object('name', NEW.name, 'scopes', NEW.scopes);
        WHEN 'tenants' THEN
            whose := NEW.id; what := NEW.id;
            act := CASE WHEN TG_OP = 'INSERT' THEN 'tenant.create'
                        WHEN OLD.state IS DISTINCT FROM NEW.state AND NEW.state = 'suspended' THEN 'tenant.suspend'
                        WHEN OLD.state IS DISTINCT FROM NEW.state AND NEW.state = 'active' THEN 'tenant.resume'
                        WHEN OLD.state IS DISTINCT FROM NEW.state THEN 'tenant.delete'
                        WHEN OLD.weight IS DISTINCT FROM NEW.weight THEN 'tenant.weight'
                        ELSE 'tenant.limits' END;
            more := CASE act WHEN 'tenant.weight' THEN jsonb_build_object('weight', NEW.weight)
                             WHEN 'tenant.limits' THEN jsonb_build_object('limits', NEW.limits)
                             ELSE jsonb_build_object('name', NEW.name) END;
        WHEN 'documents' THEN
            act := 'document.delete'; whose := NEW.tenant_id; what := NEW.id::text;
        WHEN 'stage_pauses' THEN
            act := CASE WHEN TG_OP = 'INSERT' THEN 'stage.pause' ELSE 'stage.resume' END;
            whose := acts_for; what := NEW.stage;
            more := jsonb_build_object('reason', NEW.reason);
        WHEN 'janitor_runs' THEN
            act := 'janitor.run'; whose := acts_for; what := NEW.task;
            more := jsonb_build_object('dry_run', NEW.dry_run, 'run', NEW.id);
    END CASE;
    INSERT INTO audit (tenant_id, actor, action, target, outcome, detail) VALUES (whose, acting, act, what, 'ok', more);
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_made AFTER INSERT ON api_keys FOR EACH ROW EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_revoked AFTER UPDATE OF revoked_at ON api_keys
    FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_made AFTER INSERT ON tenants FOR EACH ROW EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_changed AFTER UPDATE OF state, weight, limits ON tenants
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.weight IS DISTINCT FROM NEW.weight
        OR OLD.limits IS DISTINCT FROM NEW.limits) EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_deleted AFTER UPDATE OF deleted_at ON documents
    FOR EACH ROW WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_paused AFTER INSERT ON stage_pauses FOR EACH ROW EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_resumed AFTER UPDATE OF resumed_at ON stage_pauses
    FOR EACH ROW WHEN (OLD.resumed_at IS NULL AND NEW.resumed_at IS NOT NULL) EXECUTE FUNCTION note_act();
CREATE TRIGGER audit_asked AFTER INSERT ON janitor_runs FOR EACH ROW EXECUTE FUNCTION note_act();
