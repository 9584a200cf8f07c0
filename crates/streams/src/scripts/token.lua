-- Takes a token of a bucket that all gateways share, or pays for what was let in with one and took more.
--
-- The generic cell rate algorithm (ITU-T I.371): the bucket is one number, the time at which it would be full
-- again. It needs no task that fills it, and its key goes when it is full.
--
-- KEYS[1]  the bucket
-- ARGV[1]  microseconds between two tokens
-- ARGV[2]  how many tokens the bucket holds
-- ARGV[3]  how many tokens are owed, which are paid though they are not there; 0 to take one that is
-- ARGV[4]  how many tokens a bucket may lack
-- Returns the microseconds until there is a token, or 0 where one was taken or what is owed was paid, and how many tokens are left.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local every, held, owed, lacking = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local full_at = tonumber(redis.call('GET', KEYS[1])) or now
-- Later than any bucket can be: the clock was set back.
local latest = now + every * (held + lacking)
if full_at < now or full_at > latest + every then full_at = now end
if owed > 0 then
  full_at = math.min(full_at + every * owed, latest)
else
  local over = full_at + every - now - every * held
  if over > 0 then return {over, 0} end
  full_at = full_at + every
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
local left = math.floor((now + every * held - full_at) / every)
return {0, left > 0 and left or 0}
