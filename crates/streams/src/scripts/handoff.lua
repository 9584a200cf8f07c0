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
-- XACK comes first of the writes because Redis lets a script that has begun to write finish at its
-- memory limit: handing off must go on then, or nothing would ever drain.

local DONE, FENCED, GONE, FULL = 0, 1, 2, 3
local sizes_key, group, me, cap = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local used, changed, kinds = {}, {}, {}

local function size_of(key)
  if used[key] == nil then
    local known = tonumber(redis.call('HGET', sizes_key, key)) or 0
    -- An empty stream has no bytes, whatever was lost from it.
    if known ~= 0 and redis.call('EXISTS', key) == 0 then known = 0 end
    used[key] = known
  end
  return used[key]
end

local function grow(key, bytes)
  used[key] = math.max(0, size_of(key) + bytes)
  changed[key] = true
end

local function is_stream(key)
  if kinds[key] == nil then kinds[key] = redis.call('TYPE', key).ok end
  return kinds[key] == 'stream' or kinds[key] == 'none'
end

-- Why the entry is not ours any more, or nil and its bytes.
local function check(source, id, envelope, deliveries)
  local pending = redis.pcall('XPENDING', source, group, id, id, 1)
  if pending.err or #pending == 0 then return GONE end
  if pending[1][2] ~= me or pending[1][4] ~= deliveries then return FENCED end
  local found = redis.call('XRANGE', source, id, id)
  if #found == 0 then
    redis.call('XACK', source, group, id)
    return GONE
  end
  local fields, bytes, body = found[1][2], 0, ''
  for i = 2, #fields, 2 do
    bytes = bytes + #fields[i]
    if fields[i - 1] == 'e' then body = fields[i] end
  end
  if envelope ~= '' and not string.find(string.sub(body, 1, 512), envelope, 1, true) then return GONE end
  return nil, bytes
end

-- Whether all outputs fit and go to streams: nil, or the answer.
local function refuse(outputs)
  local add = {}
  for _, output in ipairs(outputs) do
    local key = output[1]
    if not is_stream(key) then return key .. ' is not a stream' end
    add[key] = (add[key] or 0) + #output[2]
  end
  for key, bytes in pairs(add) do
    -- One that is larger than the cap passes alone, or it would wait for ever.
    if size_of(key) > 0 and size_of(key) + bytes > cap then return FULL end
  end
  return nil
end

-- Adds all outputs or none: nil, or the answer.
local function add(outputs)
  local added = {}
  for _, output in ipairs(outputs) do
    local id = redis.pcall('XADD', output[1], '*', 'e', output[2])
    if type(id) == 'table' then
      for _, undo in ipairs(added) do redis.call('XDEL', undo[1], undo[2]) end
      if string.sub(id.err, 1, 3) == 'OOM' then return FULL end
      return id.err
    end
    added[#added + 1] = { output[1], id }
  end
  for _, output in ipairs(outputs) do
    kinds[output[1]] = 'stream'
    grow(output[1], #output[2])
  end
  return nil
end

local function settle(source, id, envelope, deliveries, action, outputs, consumer, count)
  local lost, bytes = check(source, id, envelope, deliveries)
  if lost then return lost end
  if action == 'defer' then
    redis.call('XCLAIM', source, group, consumer, 0, id, 'IDLE', 0, 'RETRYCOUNT', count, 'JUSTID')
    return DONE
  end
  local refused = refuse(outputs)
  if refused then return refused end
  if action == 'emit' then return add(outputs) or DONE end
  redis.call('XACK', source, group, id)
  local failed = add(outputs)
  if failed then
    redis.call('XCLAIM', source, group, me, 0, id, 'IDLE', 0, 'RETRYCOUNT', deliveries, 'FORCE', 'JUSTID')
    return failed
  end
  redis.call('XDEL', source, id)
  grow(source, -bytes)
  return DONE
end

local answers, at = {}, 5
for entry = 1, tonumber(ARGV[4]) do
  local source, id, envelope = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local deliveries, action = tonumber(ARGV[at + 3]), ARGV[at + 4]
  local outputs, consumer, count = {}, nil, nil
  if action == 'defer' then
    consumer, count = ARGV[at + 5], ARGV[at + 6]
    at = at + 7
  else
    local n = tonumber(ARGV[at + 5])
    for i = 1, n do
      outputs[i] = { KEYS[tonumber(ARGV[at + 4 + 2 * i])], ARGV[at + 5 + 2 * i] }
    end
    at = at + 6 + 2 * n
  end
  answers[entry] = settle(source, id, envelope, deliveries, action, outputs, consumer, count)
end

for key in pairs(changed) do
  if used[key] == 0 or redis.call('XLEN', key) == 0 then
    redis.call('HDEL', sizes_key, key)
  else
    redis.call('HSET', sizes_key, key, used[key])
  end
end
return answers
