-- A consumer's sign of life, and which run of which server it was read from.
--
-- KEYS[1]  the beat
-- Returns the run id, and the beat where there is one, with the milliseconds until its key goes.

local run_id = string.match(redis.call('INFO', 'server'), '\nrun_id:([^\r\n]*)') or ''
local beat = redis.call('GET', KEYS[1])
if not beat then return { run_id } end
return { run_id, beat, redis.call('PTTL', KEYS[1]) }
