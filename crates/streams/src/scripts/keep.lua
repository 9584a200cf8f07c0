-- Counts an answer that is to be kept, if it fits into what may be kept in a while: of all tenants together, and of its own.
--
-- KEYS[1]  the bytes that were kept in this while (hash: by tenant, and of all under the empty name)
-- ARGV[1]  the tenant
-- ARGV[2]  bytes of the answer
-- ARGV[3]  the most bytes of all tenants
-- ARGV[4]  the most bytes of one
-- ARGV[5]  milliseconds of the while
-- Returns 1 where it fits, 0 where nothing was counted.

local size = tonumber(ARGV[2])
local counted = redis.call('HMGET', KEYS[1], '', ARGV[1])
local all, own = tonumber(counted[1]) or 0, tonumber(counted[2]) or 0
if all + size > tonumber(ARGV[3]) or own + size > tonumber(ARGV[4]) then return 0 end
redis.call('HSET', KEYS[1], '', all + size, ARGV[1], own + size)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
