-- The beginnings of a stream's envelopes, a page at a time: enough to see which release each is of.
--
-- KEYS[1]  the stream
-- ARGV[1]  where to begin: an id, or `(` and the last id of the page before
-- ARGV[2]  how many
-- ARGV[3]  how many bytes of each
-- Returns an array of {id, beginning}.

if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return {} end
local heads = {}
for n, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])) do
  local head = ''
  for at = 1, #entry[2], 2 do
    if entry[2][at] == 'e' then head = string.sub(entry[2][at + 1], 1, ARGV[3]) end
  end
  heads[n] = { entry[1], head }
end
return heads
