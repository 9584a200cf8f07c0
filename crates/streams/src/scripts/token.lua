-- Takes a token of a bucket that all gateways share.
--
-- The generic cell rate algorithm (ITU-T I.371): the bucket is one number, the time at which it would be full
-- again. It needs no task that fills it, and its key goes when it is full.
--
-- KEYS[1]  the bucket
-- ARGV[1]  microseconds between two tokens
-- ARGV[2]  how many tokens the bucket holds
-- Returns the microseconds until there is a token, or 0 where one was taken, and how many tokens are left.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local every, held = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1])) or now
-- Later than any bucket can be: the clock was set back.
if full_at < now or full_at > now + every * (held + 1) then full_at = now end
local over = full_at + every - now - every * held
if over > 0 then return {over, 0} end
local kept = math.ceil((full_at + every - now) / 1000) + 1
redis.call('SET', KEYS[1], string.format('%.0f', full_at + every), 'PX', kept)
return {0, math.floor((now + every * held - full_at - every) / every)}
