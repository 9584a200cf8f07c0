-- What is done about dead letters is written down in the transaction that does it, like every other act: a replay that
-- breaks off in the middle has noted what it did.

-- One act for each tenant of a statement. A replay is a statement for each version, a discard one for all its letters.
CREATE FUNCTION note_letters() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    acting text := nullif(current_setting('riacho.actor', true), '');
BEGIN
    IF acting IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO audit (tenant_id, actor, action, target, outcome, detail)
    SELECT tenant_id, acting, CASE resolution WHEN 'replayed' THEN 'dead_letters.replay' ELSE 'dead_letters.discard' END,
        CASE WHEN min(document) = max(document) THEN min(document) ELSE '' END, 'ok',
        jsonb_build_object('letters', count(*), 'ids', jsonb_agg(id ORDER BY id))
    FROM (SELECT a.id, a.tenant_id, a.resolution, coalesce(a.document_id::text, '') AS document
          FROM letters_after AS a JOIN letters_before AS b ON b.id = a.id
          WHERE b.resolved_at IS NULL AND a.resolved_at IS NOT NULL) AS resolved
    GROUP BY tenant_id, resolution;
    RETURN NULL;
END
$$;
CREATE TRIGGER audit_resolved AFTER UPDATE ON dead_letters
    REFERENCING OLD TABLE AS letters_before NEW TABLE AS letters_after
    FOR EACH STATEMENT EXECUTE FUNCTION note_letters();
