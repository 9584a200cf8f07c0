-- What operators see of the janitor's tasks, and runs that they ask for.
--
-- A janitor that begins to lead writes down which tasks it has and when they run. The schedules of tasks that it does not have
-- keep their history, without a description.
ALTER TABLE schedules
    ADD COLUMN known_since       timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN describes         text,
    -- The cron expression and its time zone; null: it runs by hand only.
    ADD COLUMN expression        text,
    ADD COLUMN time_zone         text NOT NULL DEFAULT 'UTC',
    ADD COLUMN last_seconds      double precision,
    ADD COLUMN last_success      timestamptz,
    -- The last run that found something to do: tasks that run each second mostly do not.
    ADD COLUMN last_work         timestamptz,
    ADD COLUMN last_work_summary jsonb;

-- Runs that somebody asked a janitor for, who cannot run tasks: the gateway works in a role that sees one tenant at a time.
CREATE TABLE janitor_runs (
    id            uuid PRIMARY KEY,
    task          text NOT NULL CHECK (length(task) BETWEEN 1 AND 100),
    dry_run       boolean NOT NULL,
    -- The public part of the key that asked.
    requested_by  text NOT NULL CHECK (length(requested_by) BETWEEN 1 AND 200),
    requested_at  timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    outcome       text CHECK (outcome IN ('ok', 'failed')),
    seconds       double precision,
    summary       jsonb,
    CHECK ((finished_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX janitor_runs_unfinished ON janitor_runs (requested_at) WHERE finished_at IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON janitor_runs TO riacho_janitor;
-- Who asks says what and for whom; how it went is the janitor's word.
GRANT SELECT, INSERT (id, task, dry_run, requested_by) ON janitor_runs TO riacho_service;
