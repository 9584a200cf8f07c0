-- Pays for what was taken of a bucket that all consumers share, and says how much it holds now.
--
-- The bucket of `token.lua`, except that it may be overdrawn, by four times what it holds: what was read is read. Until
-- that is made up for it holds nothing, so that the rate is kept on average. A debt from before the clock was set back, or
-- the rate raised, is cut to that as well.
--
-- KEYS[1]  the bucket
-- ARGV[1]  microseconds between two tokens
-- ARGV[2]  how many tokens the bucket holds
-- ARGV[3]  how many were taken
-- Returns how many tokens there are.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local every, held, taken = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = tonumber(redis.call('GET', KEYS[1])) or now
if full_at < now then full_at = now end
local latest = now + every * held * 5
if full_at > latest then full_at = latest end
if taken > 0 then
  full_at = math.min(full_at + every * taken, latest)
  local kept = math.ceil((full_at - now) / 1000) + 1
  redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', kept)
end
local tokens = math.floor((now + every * held - full_at) / every)
return tokens > 0 and tokens or 0
