-- Dead letters that nothing was done about are what operators look at, the newest first, and what is
-- resolved a page at a time, the oldest first. Those that were resolved stay for a month; a list must not
-- walk over them to find the few that are open.
CREATE INDEX dead_letters_open ON dead_letters (tenant_id, created_at, id) WHERE resolved_at IS NULL;
CREATE INDEX dead_letters_open_of_all ON dead_letters (created_at, id) WHERE resolved_at IS NULL;
