-- Removes entries, whoever holds them: dead letters that were moved, and what a deleted document left.
--
-- KEYS[1]    the stream
-- KEYS[2]    the partition's hash of stream sizes
-- ARGV[1]    the stream's group; '' where it has none
-- ARGV[2..]  entry ids
-- Returns how many were removed.

local removed, bytes = 0, 0
for at = 2, #ARGV do
  local id = ARGV[at]
  local found = redis.call('XRANGE', KEYS[1], id, id)
  if found[1] then
    for i = 2, #found[1][2], 2 do bytes = bytes + #found[1][2][i] end
    removed = removed + redis.call('XDEL', KEYS[1], id)
  end
  -- Also of one that is gone already: it would stay pending.
  if ARGV[1] ~= '' then redis.call('XACK', KEYS[1], ARGV[1], id) end
end
local size = tonumber(redis.call('HGET', KEYS[2], KEYS[1])) or 0
if size <= bytes or redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('HDEL', KEYS[2], KEYS[1])
elseif bytes > 0 then
  redis.call('HSET', KEYS[2], KEYS[1], size - bytes)
end
return removed
