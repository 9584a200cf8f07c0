-- A consumer's sign of life, and which run of which server it was read from.
--
-- KEYS[1]  the beat
-- Returns the run id, and the beat where there is one.

local run_id = string.match(redis.call('INFO', 'server'), '\nrun_id:([^\r\n]*)') or ''
return { run_id, redis.call('GET', KEYS[1]) }
