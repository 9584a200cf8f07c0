-- What the server that holds a partition says of itself. Asked in a script, because a script is answered by
-- the owner of its key's slot, and INFO by any server of a cluster.
--
-- KEYS[1]  any key of the partition
-- Returns its run id, its replication id, bytes of memory in use, the limit, and what happens at the limit.

local text = redis.call('INFO', 'server') .. redis.call('INFO', 'replication') .. redis.call('INFO', 'memory')
local function field(name) return string.match(text, '\n' .. name .. ':([^\r\n]*)') or '' end
return {
  field('run_id'), field('master_replid'), field('used_memory'), field('maxmemory'), field('maxmemory_policy'),
}
