-- Removes dead letters that were moved.
--
-- KEYS[1]    the dead-letter stream
-- KEYS[2]    the partition's hash of stream sizes
-- ARGV       entry ids
-- Returns how many were removed.

local removed, bytes = 0, 0
for _, id in ipairs(ARGV) do
  local found = redis.call('XRANGE', KEYS[1], id, id)
  if found[1] then
    for i = 2, #found[1][2], 2 do bytes = bytes + #found[1][2][i] end
    removed = removed + redis.call('XDEL', KEYS[1], id)
  end
end
local size = tonumber(redis.call('HGET', KEYS[2], KEYS[1])) or 0
if size <= bytes or redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('HDEL', KEYS[2], KEYS[1])
elseif bytes > 0 then
  redis.call('HSET', KEYS[2], KEYS[1], size - bytes)
end
return removed
