-- Settles entries that this consumer holds: each on its own, all in one call.
--
-- KEYS[1]    the partition's hash of stream sizes
-- KEYS[2..]  the streams, sources and targets, each once
-- ARGV[1]    group
-- ARGV[2]    consumer
-- ARGV[3]    cap of a stream in bytes
-- ARGV[4]    number of batches, then for each batch of entries that are settled alike:
--              source (index into KEYS), delivery count, envelope id of its first entry ('' where it could
--              not be decoded), action:
--                'done' or 'emit', n, then n targets (indexes into KEYS), number of entries, then for each
--                  entry: its id, its bytes, n envelopes
--                'defer', consumer, delivery count to set, number of entries, then for each entry: its id
-- Returns an array with an answer for each entry:
--   0 done; 1 fenced, another owner or another delivery; 2 gone, already done or lost;
--   3 full, a target is at its cap or the server at its memory; or a text, why a target refused.
--   Nothing was changed for an entry that is not answered with 0.
--
-- Each command costs a microsecond from here, so what can be said for many entries at once is: who holds them,
-- XACK and XDEL. The first works best where the entries of a source stand in the order of their ids; those
-- that do not are asked for one by one.
--
-- Of what is handed off, nothing is written before all is checked, and XACK comes first of the writes, because Redis
-- lets a script that has begun to write finish at its memory limit: handing off must go on then, or nothing would
-- ever drain.

local DONE, FENCED, GONE, FULL = 0, 1, 2, 3
local call, pcall = redis.call, redis.pcall
-- Locals are quicker than globals, and these are read for each entry.
local keys, argv = KEYS, ARGV
local sizes_key, group, me, cap = keys[1], argv[1], argv[2], tonumber(argv[3])
local used, changed, kinds = {}, {}, {}

local function is_stream(key)
  local kind = kinds[key]
  if not kind then
    kind = call('TYPE', key).ok
    kinds[key] = kind
  end
  return kind == 'stream' or kind == 'none'
end

local function size_of(key)
  local size = used[key]
  if not size then
    size = tonumber(call('HGET', sizes_key, key)) or 0
    -- An empty stream has no bytes, whatever was lost from it: it may have been deleted and made again.
    if size ~= 0 and (not is_stream(key) or call('XLEN', key) == 0) then size = 0 end
    used[key] = size
  end
  return size
end

local function grow(key, bytes)
  used[key] = math.max(0, size_of(key) + bytes)
  changed[key] = true
end

-- Reads the batches, and of each source which ids it is about.
local batches, ranges, at = {}, {}, 5
for n = 1, tonumber(argv[4]) do
  local batch = {
    source = keys[tonumber(argv[at])],
    deliveries = tonumber(argv[at + 1]),
    envelope = argv[at + 2],
    action = argv[at + 3],
  }
  if batch.action == 'defer' then
    batch.consumer, batch.count = argv[at + 4], argv[at + 5]
    batch.many, batch.first, batch.step = tonumber(argv[at + 6]), at + 7, 1
  else
    local outputs = tonumber(argv[at + 4])
    batch.targets = {}
    for i = 1, outputs do batch.targets[i] = keys[tonumber(argv[at + 4 + i])] end
    batch.many, batch.first, batch.step = tonumber(argv[at + 5 + outputs]), at + 6 + outputs, 2 + outputs
  end
  at = batch.first + batch.many * batch.step
  local range = ranges[batch.source]
  if not range then
    range = { from = argv[batch.first], many = 0 }
    ranges[batch.source] = range
  end
  range.to, range.many = argv[at - batch.step], range.many + batch.many
  batches[n] = batch
end

-- By source: delivery counts of what this consumer holds, and the answer for what this call settled.
local held, settled = {}, {}
for source, range in pairs(ranges) do
  local mine = {}
  -- Some more than asked for, since others may stand in between.
  local pending = pcall('XPENDING', source, group, range.from, range.to, range.many + 16, me)
  if not pending.err then
    for i = 1, #pending do mine[pending[i][1]] = pending[i][4] end
  end
  held[source], settled[source] = mine, {}
end

-- Why the entry is not ours any more, or nil.
local function lost(source, id, deliveries)
  local answer = settled[source][id]
  if answer then return answer end
  local known = held[source][id]
  if not known then
    local pending = pcall('XPENDING', source, group, id, id, 1)
    if pending.err or #pending == 0 then return GONE end
    if pending[1][2] ~= me then return FENCED end
    known = pending[1][4]
  end
  if known ~= deliveries then return FENCED end
  return nil
end

-- Whether the stream was made anew and has another entry under a batch's first id. Owner and delivery count tell
-- that of single entries; only a clock that was set back can bring all three back.
local function is_another(batch)
  if batch.envelope == '' then return false end
  local found = pcall('XRANGE', batch.source, argv[batch.first], argv[batch.first])
  -- Where no stream stands any more, each entry is found to be gone below, and spoils no other lane's.
  if found.err or #found == 0 then return false end
  local fields = found[1][2]
  for i = 1, #fields, 2 do
    -- The id stands at the beginning; further on it may be quoted.
    if fields[i] == 'e' then
      return not string.find(string.sub(fields[i + 1], 1, 512), batch.envelope, 1, true)
    end
  end
  return true
end

-- Whether so many bytes fit onto a stream: nil, or the answer.
local function refuse_one(key, bytes)
  if not is_stream(key) then return key .. ' is not a stream' end
  local size = size_of(key)
  -- What is larger than the cap passes alone, or it would wait for ever.
  if size > 0 and size + bytes > cap then return FULL end
  return nil
end

-- Whether the outputs at `first` fit: nil, or the answer.
local function refuse(targets, first)
  if #targets == 1 then return refuse_one(targets[1], #argv[first]) end
  local more = {}
  for i, key in ipairs(targets) do more[key] = (more[key] or 0) + #argv[first + i - 1] end
  for key, bytes in pairs(more) do
    local refused = refuse_one(key, bytes)
    if refused then return refused end
  end
  return nil
end

-- Adds or takes away the bytes of the outputs at `first`.
local function grow_targets(targets, first, sign)
  for i = 1, #targets do grow(targets[i], sign * #argv[first + i - 1]) end
end

-- A server that takes no writes now: a primary that was demoted, has too few replicas, or cannot write to disk.
local is_away = { READONLY = true, NOREPLICAS = true, MISCONF = true }

-- Adds the outputs at `first`, all or none: nil, or the answer.
local function add(targets, first)
  local added = {}
  for i = 1, #targets do
    local id = pcall('XADD', targets[i], '*', 'e', argv[first + i - 1])
    if type(id) == 'table' then
      for n = 1, i - 1 do call('XDEL', targets[n], added[n]) end
      local code = string.match(id.err, '^%-?(%S*)')
      if code == 'OOM' then return FULL end
      -- The server's state and no fault of the target. Nothing can have been written before, or it would have
      -- gone on, so the call fails as a whole.
      if is_away[code] then call('XADD', targets[i], '*', 'e', argv[first + i - 1]) end
      return id.err
    end
    added[i] = id
  end
  return nil
end

-- What will be done, entry by entry: its place among the answers, its batch, where its arguments begin.
local places, owners, begins = {}, {}, {}
-- By source, what is acknowledged.
local acks = {}

local function defer(batch, id)
  call('XCLAIM', batch.source, group, batch.consumer, 0, id, 'IDLE', 0, 'RETRYCOUNT', batch.count, 'JUSTID')
  settled[batch.source][id] = FENCED
  return DONE
end

-- The answer for an entry, or DONE where its outputs are added below.
local function admit(batch, first, place)
  local source, id = batch.source, argv[first]
  local answer = lost(source, id, batch.deliveries)
  if answer then return answer end
  if batch.action == 'defer' then return defer(batch, id) end
  answer = refuse(batch.targets, first + 2)
  if answer then return answer end
  grow_targets(batch.targets, first + 2, 1)
  if batch.action == 'done' then
    grow(source, -tonumber(argv[first + 1]))
    settled[source][id] = GONE
    local ids = acks[source]
    if not ids then
      ids = {}
      acks[source] = ids
    end
    ids[#ids + 1] = id
  end
  local n = #places + 1
  places[n], owners[n], begins[n] = place, batch, first
  return DONE
end

-- Whether all outputs of a batch with one target fit at once, which is the rule.
local function all_fit(batch)
  if batch.action ~= 'done' or #batch.targets ~= 1 or not is_stream(batch.targets[1]) then return false end
  local bytes = size_of(batch.targets[1])
  for at = batch.first + 2, batch.first + batch.many * 3 - 1, 3 do bytes = bytes + #argv[at] end
  return bytes <= cap
end

local answers = {}

-- The same as `admit` for each entry of a batch whose outputs all fit, with less to do for each.
local function admit_all(batch)
  local source, deliveries, ids = batch.source, batch.deliveries, acks[batch.source] or {}
  local mine, done, taken, given = held[source], settled[source], 0, 0
  acks[source] = ids
  for at = batch.first, batch.first + batch.many * 3 - 1, 3 do
    local id, place = argv[at], #answers + 1
    local answer = DONE
    if mine[id] ~= deliveries or done[id] then answer = lost(source, id, deliveries) or DONE end
    if answer == DONE then
      done[id] = GONE
      ids[#ids + 1] = id
      taken, given = taken + tonumber(argv[at + 1]), given + #argv[at + 2]
      local n = #places + 1
      places[n], owners[n], begins[n] = place, batch, at
    end
    answers[place] = answer
  end
  grow(batch.targets[1], given)
  grow(source, -taken)
end

for _, batch in ipairs(batches) do
  if is_another(batch) then
    for _ = 1, batch.many do answers[#answers + 1] = GONE end
  elseif all_fit(batch) then
    admit_all(batch)
  else
    for n = 0, batch.many - 1 do
      local place = #answers + 1
      answers[place] = admit(batch, batch.first + n * batch.step, place)
    end
  end
end

for source, ids in pairs(acks) do
  if #ids > 0 then call('XACK', source, group, unpack(ids)) end
end

local kept = {}
for n = 1, #places do
  local batch, first = owners[n], begins[n]
  local failed = add(batch.targets, first + 2)
  if failed then
    answers[places[n]] = failed
    grow_targets(batch.targets, first + 2, -1)
    if batch.action == 'done' then
      local id = argv[first]
      call('XCLAIM', batch.source, group, me, 0, id, 'IDLE', 0, 'RETRYCOUNT', batch.deliveries, 'FORCE', 'JUSTID')
      grow(batch.source, tonumber(argv[first + 1]))
      kept[batch.source .. id] = true
    end
  end
end

for source, ids in pairs(acks) do
  if next(kept) then
    local gone = {}
    for _, id in ipairs(ids) do
      if not kept[source .. id] then gone[#gone + 1] = id end
    end
    ids = gone
  end
  if #ids > 0 then call('XDEL', source, unpack(ids)) end
end

for key in pairs(changed) do
  if used[key] == 0 or call('XLEN', key) == 0 then
    call('HDEL', sizes_key, key)
  else
    -- Refused at the memory limit where nothing was acknowledged; then nothing was added either.
    pcall('HSET', sizes_key, key, used[key])
  end
end
return answers
