-- Acknowledges and deletes producers' events, and answers their producers, in one step.
--
-- KEYS[1]    the tenant's intake
-- KEYS[2]    the tenant's results
-- ARGV[1]    group
-- ARGV[2]    how many results are kept
-- ARGV[3..]  pairs: entry id, the answer's envelope ('' for none)
-- Returns how many entries were acknowledged. An event that another consumer answered already is
-- answered again, which is harmless: producers look for the event's id.

local done = 0
for at = 3, #ARGV, 2 do
  if ARGV[at + 1] ~= '' then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[at + 1])
  end
  done = done + redis.call('XACK', KEYS[1], ARGV[1], ARGV[at])
  redis.call('XDEL', KEYS[1], ARGV[at])
end
return done
