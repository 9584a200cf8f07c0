-- Deletes consumers that hold nothing. XGROUP DELCONSUMER throws pending entries away, so the
-- look and the deletion are one step.
--
-- KEYS[1]    the stream
-- ARGV[1]    group
-- ARGV[2..]  consumers
-- Returns how many were deleted.

local deleted = 0
for at = 2, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[at]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[at])
    deleted = deleted + 1
  end
end
return deleted
