-- When a version came into each state of its way, so that people see where the time went.

ALTER TABLE document_versions
    -- Since when it waits again; nothing where it waits since it was accepted.
    ADD COLUMN waiting_at    timestamptz,
    ADD COLUMN extracting_at timestamptz,
    ADD COLUMN embedding_at  timestamptz,
    ADD COLUMN indexing_at   timestamptz;

CREATE OR REPLACE FUNCTION check_state_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM state_transitions WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'document version % of % may not go from % to %', OLD.version, OLD.document_id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'legal_state_transition';
    END IF;
    NEW.state_changed_at := clock_timestamp();
    CASE NEW.state
        WHEN 'extracting' THEN NEW.extracting_at := NEW.state_changed_at;
        WHEN 'embedding' THEN NEW.embedding_at := NEW.state_changed_at;
        WHEN 'indexing' THEN NEW.indexing_at := NEW.state_changed_at;
        WHEN 'waiting' THEN
            -- A retry begins its way anew.
            NEW.waiting_at := NEW.state_changed_at;
            NEW.extracting_at := NULL;
            NEW.embedding_at := NULL;
            NEW.indexing_at := NULL;
        ELSE
    END CASE;
    RETURN NEW;
END
$$;
