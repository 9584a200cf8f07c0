-- What a consumer needs to know of the others: how the server is that holds a partition, who reads a stage there, and
-- whether anybody holds anything. In one call, because each process asks it of each stage and partition twice a second;
-- and in a script, because a script is answered by the owner of its keys' slot, and INFO by any server of a cluster.
--
-- KEYS     the stage's streams
-- ARGV[1]  group
-- Returns the server's run id, its replication id, bytes of memory in use, the limit, what happens at the limit; how many
-- entries are pending; and then the names of the consumers, without those of the delay classes.

local text = redis.call('INFO', 'server') .. redis.call('INFO', 'replication') .. redis.call('INFO', 'memory')
local function field(name) return string.match(text, '\n' .. name .. ':([^\r\n]*)') or '' end
local found = {
  field('run_id'), field('master_replid'), field('used_memory'), field('maxmemory'), field('maxmemory_policy'), '0',
}
local pending, seen = 0, {}
for _, stream in ipairs(KEYS) do
  local summary = redis.pcall('XPENDING', stream, ARGV[1])
  -- Without the group there is nothing; the reader makes it again.
  if not summary.err then
    pending = pending + summary[1]
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
      local name = consumer[2]
      if not seen[name] and string.sub(name, 1, 6) ~= 'retry:' then
        seen[name] = true
        found[#found + 1] = name
      end
    end
  end
end
found[6] = tostring(pending)
return found
