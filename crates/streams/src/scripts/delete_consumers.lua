-- Deletes consumers that hold nothing. XGROUP DELCONSUMER throws pending entries away, so the
-- look and the deletion are one step.
--
-- KEYS[1]    the stream
-- ARGV[1]    group
-- ARGV[2..]  consumers
-- Returns how many were deleted, those that are not there not counted.

local gone = {}
for at = 2, #ARGV do gone[ARGV[at]] = true end
local deleted = 0
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for field = 1, #info, 2 do consumer[info[field]] = info[field + 1] end
  if gone[consumer.name] and consumer.pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    deleted = deleted + 1
  end
end
return deleted
