-- Settles entries that this consumer holds: each on its own, all in one call.
--
-- KEYS[1]    the partition's hash of stream sizes
-- KEYS[2..]  the streams, sources and targets, each once
-- ARGV[1]    group
-- ARGV[2]    consumer
-- ARGV[3]    cap of a stream in bytes
-- ARGV[4]    number of entries, then for each entry:
--              source (index into KEYS), entry id, envelope id ('' where it could not be decoded),
--              delivery count, action:
--                'done', n, then n times: target (index into KEYS), envelope
--                'emit', n, then n times: target (index into KEYS), envelope
--                'defer', consumer, delivery count to set
-- Returns an array with an answer for each entry:
--   0 done; 1 fenced, another owner or another delivery; 2 gone, already done or lost;
--   3 full, a target is at its cap or the server at its memory; or a text, why a target refused.
--   Nothing was changed for an entry that is not answered with 0.
--
-- What is asked of the server is asked for all entries of a source at once: each command costs a
-- microsecond from here. That works best where the entries of a source stand in the order of their
-- ids; those that do not are asked for one by one.
--
-- XACK comes first of the writes because Redis lets a script that has begun to write finish at its
-- memory limit: handing off must go on then, or nothing would ever drain.

local DONE, FENCED, GONE, FULL = 0, 1, 2, 3
local call, pcall, find = redis.call, redis.pcall, string.find
local sizes_key, group, me, cap = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local used, changed, kinds = {}, {}, {}
-- By source: delivery counts of what this consumer holds, and the fields of entries.
local held, stored = {}, {}

local function size_of(key)
  local size = used[key]
  if not size then
    size = tonumber(call('HGET', sizes_key, key)) or 0
    -- An empty stream has no bytes, whatever was lost from it.
    if size ~= 0 and call('EXISTS', key) == 0 then size = 0 end
    used[key] = size
  end
  return size
end

local function grow(key, bytes)
  used[key] = math.max(0, size_of(key) + bytes)
  changed[key] = true
end

local function is_stream(key)
  local kind = kinds[key]
  if not kind then
    kind = call('TYPE', key).ok
    kinds[key] = kind
  end
  return kind == 'stream' or kind == 'none'
end

-- Looks at `n` entries of a source from one id to another.
local function look(source, from, to, n)
  local mine, fields = {}, {}
  held[source], stored[source] = mine, fields
  local pending = pcall('XPENDING', source, group, from, to, n, me)
  if pending.err then return end
  for i = 1, #pending do mine[pending[i][1]] = pending[i][4] end
  local found = call('XRANGE', source, from, to, 'COUNT', n)
  for i = 1, #found do fields[found[i][1]] = found[i][2] end
end

-- An entry's delivery count if this consumer holds it, else the answer.
local function holding(source, id)
  local known = held[source][id]
  if known then return known end
  local pending = pcall('XPENDING', source, group, id, id, 1)
  if pending.err or #pending == 0 then return nil, GONE end
  if pending[1][2] ~= me then return nil, FENCED end
  return pending[1][4]
end

-- The envelope in an entry's fields, and the bytes of all.
local function envelope_of(fields)
  if #fields == 2 and fields[1] == 'e' then return fields[2], #fields[2] end
  local bytes, envelope = 0, ''
  for i = 2, #fields, 2 do
    bytes = bytes + #fields[i]
    if fields[i - 1] == 'e' then envelope = fields[i] end
  end
  return envelope, bytes
end

-- Why the entry is not ours any more, or nil and its bytes.
local function check(source, id, envelope_id, deliveries)
  local known, lost = holding(source, id)
  if lost then return lost end
  if known ~= deliveries then return FENCED end
  local fields = stored[source][id]
  if not fields then
    local found = call('XRANGE', source, id, id)
    if #found == 0 then
      call('XACK', source, group, id)
      return GONE
    end
    fields = found[1][2]
  end
  local envelope, bytes = envelope_of(fields)
  -- The id stands at the beginning; further on it may be quoted.
  if envelope_id ~= '' and not find(string.sub(envelope, 1, 512), envelope_id, 1, true) then return GONE end
  return nil, bytes
end

-- Whether so many bytes fit onto a stream: nil, or the answer.
local function refuse_one(key, bytes)
  if not is_stream(key) then return key .. ' is not a stream' end
  local size = size_of(key)
  -- What is larger than the cap passes alone, or it would wait for ever.
  if size > 0 and size + bytes > cap then return FULL end
  return nil
end

-- Whether the `n` outputs at `first` fit: nil, or the answer.
local function refuse(first, n)
  if n == 1 then return refuse_one(KEYS[tonumber(ARGV[first])], #ARGV[first + 1]) end
  local more = {}
  for i = first, first + 2 * n - 2, 2 do
    local key = KEYS[tonumber(ARGV[i])]
    more[key] = (more[key] or 0) + #ARGV[i + 1]
  end
  for key, bytes in pairs(more) do
    local refused = refuse_one(key, bytes)
    if refused then return refused end
  end
  return nil
end

-- Adds the `n` outputs at `first`, all or none: nil, or the answer.
local function add(first, n)
  local added = {}
  for i = first, first + 2 * n - 2, 2 do
    local key = KEYS[tonumber(ARGV[i])]
    local id = pcall('XADD', key, '*', 'e', ARGV[i + 1])
    if type(id) == 'table' then
      for _, undo in ipairs(added) do call('XDEL', undo[1], undo[2]) end
      if string.sub(id.err, 1, 3) == 'OOM' then return FULL end
      return id.err
    end
    added[#added + 1] = { key, id }
  end
  for i = first, first + 2 * n - 2, 2 do
    local key = KEYS[tonumber(ARGV[i])]
    kinds[key] = 'stream'
    grow(key, #ARGV[i + 1])
  end
  return nil
end

-- Settles the entry whose arguments begin at `at`.
local function settle(at)
  local source, id = KEYS[tonumber(ARGV[at])], ARGV[at + 1]
  local deliveries, action = tonumber(ARGV[at + 3]), ARGV[at + 4]
  local lost, bytes = check(source, id, ARGV[at + 2], deliveries)
  if lost then return lost end
  -- Whatever comes of it, a second settlement of it in this call has to look again.
  held[source][id] = nil
  if action == 'defer' then
    call('XCLAIM', source, group, ARGV[at + 5], 0, id, 'IDLE', 0, 'RETRYCOUNT', ARGV[at + 6], 'JUSTID')
    return DONE
  end
  local first, n = at + 6, tonumber(ARGV[at + 5])
  local refused = refuse(first, n)
  if refused then return refused end
  if action == 'emit' then return add(first, n) or DONE end
  call('XACK', source, group, id)
  local failed = add(first, n)
  if failed then
    call('XCLAIM', source, group, me, 0, id, 'IDLE', 0, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID')
    return failed
  end
  call('XDEL', source, id)
  grow(source, -bytes)
  return DONE
end

-- Where each entry's arguments begin, and of each source the first id, the last, and how many.
local begins, sources, at = {}, {}, 5
for n = 1, tonumber(ARGV[4]) do
  begins[n] = at
  local source = KEYS[tonumber(ARGV[at])]
  local range = sources[source]
  if not range then
    range = { from = ARGV[at + 1], many = 0 }
    sources[source] = range
  end
  range.to, range.many = ARGV[at + 1], range.many + 1
  if ARGV[at + 4] == 'defer' then at = at + 7 else at = at + 6 + 2 * tonumber(ARGV[at + 5]) end
end
for source, range in pairs(sources) do look(source, range.from, range.to, range.many) end

local answers = {}
for n, first in ipairs(begins) do answers[n] = settle(first) end

for key in pairs(changed) do
  if used[key] == 0 or call('XLEN', key) == 0 then
    call('HDEL', sizes_key, key)
  else
    call('HSET', sizes_key, key, used[key])
  end
end
return answers
