-- Puts a release onto its stream, once however often it is sent.
--
-- KEYS[1]  the stream
-- KEYS[2]  the release's marker
-- KEYS[3]  the partition's hash of stream sizes
-- ARGV[1]  envelope
-- ARGV[2]  cap of the stream in bytes
-- ARGV[3]  how many seconds the marker lasts
-- Returns 1 added, 0 already there, 2 full.

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local size = tonumber(redis.call('HGET', KEYS[3], KEYS[1])) or 0
if size ~= 0 and redis.call('XLEN', KEYS[1]) == 0 then size = 0 end
if size > 0 and size + #ARGV[1] > tonumber(ARGV[2]) then return 2 end
redis.call('XADD', KEYS[1], '*', 'e', ARGV[1])
redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
redis.call('HSET', KEYS[3], KEYS[1], size + #ARGV[1])
return 1
