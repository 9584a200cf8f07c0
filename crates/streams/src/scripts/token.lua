-- Takes tokens of a bucket that all gateways share.
--
-- The generic cell rate algorithm (ITU-T I.371): the bucket is one number, the time at which it would be full
-- again. It needs no task that fills it, and its key goes when it is full.
--
-- KEYS[1]  the bucket
-- ARGV[1]  microseconds between two tokens
-- ARGV[2]  how many tokens the bucket holds
-- ARGV[3]  how many are taken; one has to be there, the others are owed where they are not. Below 0 they are given back
-- ARGV[4]  how many tokens the bucket may owe; what is beyond that is let off
-- Returns the microseconds until there is a token, or 0 where some were taken; how many tokens are left; and the
-- microseconds until there is the next one.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local every, held, taken, owed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local full_at = tonumber(redis.call('GET', KEYS[1]))
if taken < 0 then
  -- The bucket is full, or Redis has lost it with what was taken of it.
  if not full_at then return {0, held, every} end
  -- What was taken under other limits stays taken, so no time is too late here.
  full_at = math.max(full_at + every * taken, now)
else
  full_at = full_at or now
  local latest = now + every * (held + owed)
  -- Later than any bucket can be: the clock was set back.
  if full_at < now or full_at > latest + every then full_at = now end
  local over = full_at + every - now - every * held
  if over > 0 then return {over, 0, over} end
  full_at = math.min(full_at + every * taken, latest)
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
local left = math.floor((now + every * held - full_at) / every)
if left < 0 then left = 0 end
return {0, left, math.max(every, full_at + every - now - every * held)}
