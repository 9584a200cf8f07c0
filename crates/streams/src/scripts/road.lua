-- What tells whether a partition lost anything since the last look.
--
-- KEYS[1]    the partition's epoch
-- KEYS[2]    how often a group of the partition was made
-- KEYS[3..]  its streams
-- ARGV[1]    the epoch to set where there is none
-- Returns the server's run id and replication id, the epoch, how often a group was made, then for each stream how many
-- entries were ever added to it; 0 where there is none. All in one step: after a failover the ids would otherwise be
-- those of one server, and the rest of another.

-- Refused at the memory limit; then there is an epoch already, or nothing to compare yet.
redis.pcall('SET', KEYS[1], ARGV[1], 'NX')
local text = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
local function field(name) return string.match(text, '\n' .. name .. ':([^\r\n]*)') or '' end
local answer = {
  field('run_id'), field('master_replid'),
  redis.call('GET', KEYS[1]) or '', tonumber(redis.call('GET', KEYS[2])) or 0,
}
for at = 3, #KEYS do
  local added = 0
  local info = redis.pcall('XINFO', 'STREAM', KEYS[at])
  if not info.err then
    for field = 1, #info, 2 do
      if info[field] == 'entries-added' then added = info[field + 1] end
    end
  end
  answer[#answer + 1] = added
end
return answer
