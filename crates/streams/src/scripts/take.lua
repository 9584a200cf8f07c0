-- Takes over entries of other consumers: of delay classes once they are due, and of the dead.
--
-- KEYS       the streams
-- ARGV[1]    group
-- ARGV[2]    the consumer that takes
-- ARGV[3]    how many at most
-- ARGV[4..6] how many at most of each stream
-- ARGV[7..]  pairs: a consumer to take from, the idle time in milliseconds from which on
-- Returns an array of {index into KEYS, entry id, delivery count, fields}. The delivery count of
-- each has grown by one.

local group, me, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local taken = {}
for index, stream in ipairs(KEYS) do
  local of_stream = tonumber(ARGV[3 + index])
  for at = 7, #ARGV, 2 do
    local most = math.min(left, of_stream)
    if most <= 0 then break end
    local due = redis.pcall('XPENDING', stream, group, 'IDLE', ARGV[at + 1], '-', '+', most, ARGV[at])
    -- Without the group there is nothing to take; the reader makes it again.
    if due.err then break end
    for _, pending in ipairs(due) do
      local claimed = redis.call('XCLAIM', stream, group, me, 0, pending[1])
      -- An entry that was deleted meanwhile leaves the pending list here, and nothing comes back.
      if claimed[1] then
        taken[#taken + 1] = { index, claimed[1][1], pending[4] + 1, claimed[1][2] }
        left, of_stream = left - 1, of_stream - 1
      end
    end
  end
end
return taken
