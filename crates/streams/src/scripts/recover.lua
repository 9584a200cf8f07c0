-- Fetches entries again that this consumer holds but never received, because a reply was lost.
--
-- KEYS[1]    the stream
-- ARGV[1]    group
-- ARGV[2]    consumer
-- ARGV[3..]  entry ids
-- Returns an array of {1, entry id, delivery count, fields}. A lost delivery is no attempt: the
-- delivery count stays.

local stream, group, me = KEYS[1], ARGV[1], ARGV[2]
local found = {}
for at = 3, #ARGV do
  local id = ARGV[at]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)
  if pending[1] and pending[1][2] == me then
    local count = pending[1][4]
    local claimed = redis.call('XCLAIM', stream, group, me, 0, id, 'RETRYCOUNT', count)
    if claimed[1] then found[#found + 1] = { 1, id, count, claimed[1][2] } end
  end
end
return found
