-- Gives turns at a provider's limits, which all replicas share: a request and its tokens together, or neither.
--
-- Two buckets of the generic cell rate algorithm (ITU-T I.371) as in token.lua, of requests and of tokens: each is the
-- time at which it would be full again. A turn may lie in the future, and who asks next comes after it, so turns come in
-- the order in which they were asked for: nobody tries in vain, and nobody starves. Who has several requests takes the time
-- of all with the first, so that what was begun is not held up by what was not. Urgent turns come before those that
-- are given already, by half of the rate at most. Those are put off by as much (`shifted`, the sum of it): who holds one
-- asks again when its time has come, and learns of it. So all together keep to the limit. A pause of the provider ends all
-- turns, and their name changes.
--
-- KEYS[1]  the buckets (hash)
-- KEYS[2]  who asked lately (sorted set)
-- ARGV[1]  "ask", "settle"
-- ARGV[2]  microseconds of the window
-- ARGV[3]  requests in a window; 0: not limited here
-- ARGV[4]  tokens in a window, in the same way
-- ARGV[5]  who asks; empty: nobody, who only looks
-- ARGV[6]  the name of the turn that is held or was used; 0: none
-- ARGV[7]  the tokens of the request
-- ask:
-- ARGV[8]  microseconds; a turn that is further away is not taken
-- ARGV[9]  1: urgent
-- ARGV[10] requests that follow
-- ARGV[11] their tokens
-- ARGV[12] the shift when the turn that is held was answered
-- settle:
-- ARGV[8]  tokens that it took beyond those asked for; negative: fewer
-- ARGV[9]  requests that are not sent after all
-- ARGV[10] requests in a window as the provider says; -1: it says nothing
-- ARGV[11] tokens in a window, in the same way
-- ARGV[12] requests that are left
-- ARGV[13] tokens that are left
-- ARGV[14] microseconds of a pause that the provider asks for; 0: none
-- ARGV[15] 1: the turn was urgent
-- Returns { 1 where the turn is taken, microseconds until it comes, its name, how many asked lately, requests and tokens
--           in a window (0: not limited), the shift }

local KEPT_MS = 7200000
local CLOCK_STEP = 1000000

local op, window, who = ARGV[1], tonumber(ARGV[2]), ARGV[5]
local held, tokens = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local TIMES = { 'requests_at', 'tokens_at', 'urgent_at', 'paused_until' }
local FIELDS =
  { 'requests_at', 'tokens_at', 'urgent_at', 'paused_until', 'name', 'now', 'requests', 'tokens', 'shifted' }
local stored = redis.call('HMGET', KEYS[1], unpack(FIELDS))
local state = {}
for at, field in ipairs(FIELDS) do state[field] = tonumber(stored[at]) or 0 end
if state.name == 0 then state.name = now end
-- The clock was set back, by the operator or by a failover.
if state.now > now + CLOCK_STEP then
  for _, field in ipairs(TIMES) do state[field] = state[field] - state.now + now end
end
state.now = now

if op == 'settle' then
  local requests, tokens = tonumber(ARGV[10]), tonumber(ARGV[11])
  if requests > 0 then state.requests = requests end
  if tokens > 0 then state.tokens = tokens end
end

local function lower(told, seen)
  if told == 0 or seen == 0 then return told + seen end
  return math.min(told, seen)
end
local limit = { requests = lower(tonumber(ARGV[3]), state.requests), tokens = lower(tonumber(ARGV[4]), state.tokens) }
-- The time of one, and how many may go out at once.
local every, burst = { requests = 0, tokens = 0 }, { requests = 1, tokens = 0 }
if limit.requests > 0 then
  every.requests = window / limit.requests
  burst.requests = math.max(limit.requests / 10, 1)
end
if limit.tokens > 0 then
  every.tokens = window / limit.tokens
  burst.tokens = math.max(limit.tokens / 10, 1)
  if limit.requests > 0 then burst.tokens = math.max(burst.tokens, 2 * limit.tokens / limit.requests) end
  burst.tokens = math.min(burst.tokens, limit.tokens)
end

-- When a bucket has so many.
local function has(at, what, many)
  return math.max(at, now) + (many - burst[what]) * every[what]
end

-- When a bucket would be full again, so many taken at `start`. More than it holds is saved up for before.
local function taken(at, what, many, start)
  local saving = math.max(many - burst[what], 0) * every[what]
  return math.max(at, start - saving) + many * every[what]
end

-- When a request has its turn that is not urgent.
local function usual()
  return math.max(now, state.paused_until, has(state.requests_at, 'requests', 1),
    has(state.tokens_at, 'tokens', tokens))
end

-- The time that requests take of a bucket with half of the window's time.
local function urgent_cost(requests, of_tokens)
  return 2 * math.max(requests * every.requests, of_tokens * every.tokens)
end

local function ask(longest, urgent, requests_after, tokens_after, seen)
  if held ~= 0 and held == state.name then
    return 1, urgent and 0 or math.max(state.shifted - seen, 0)
  end
  local start = usual()
  local put_off, urgent_at = start, nil
  if urgent then
    -- That bucket holds a tenth of the window.
    local cost = urgent_cost(1, tokens)
    local early = math.max(now, state.paused_until, math.max(state.urgent_at, now) + cost - math.max(window / 10, cost))
    if early < start then
      start, urgent_at = early, math.max(state.urgent_at, early) + cost
    end
  end
  if start - now > longest then return 0, start - now end
  state.urgent_at = urgent_at or state.urgent_at
  state.requests_at = taken(state.requests_at, 'requests', 1, start) + requests_after * every.requests
  state.tokens_at = taken(state.tokens_at, 'tokens', tokens, start) + tokens_after * every.tokens
  if urgent_at then state.shifted = state.shifted + math.max(usual() - put_off, 0) end
  return 1, start - now
end

local function settle(more_tokens, requests_back, requests_left, tokens_left, pause, urgent)
  if held == state.name then
    if urgent and requests_back > 0 then
      state.urgent_at = state.urgent_at - urgent_cost(requests_back, math.max(-more_tokens, 0))
    end
    state.requests_at = state.requests_at - requests_back * every.requests
    state.tokens_at = state.tokens_at + more_tokens * every.tokens
  end
  if requests_left >= 0 then
    state.requests_at = math.max(state.requests_at, now + (burst.requests - requests_left) * every.requests)
  end
  if tokens_left >= 0 then
    state.tokens_at = math.max(state.tokens_at, now + (burst.tokens - tokens_left) * every.tokens)
  end
  local till = now + pause
  if pause > 0 and till > state.paused_until then
    -- By then the provider has what it refused now, and nobody knows of more.
    state.paused_until, state.urgent_at, state.name = till, till, state.name + 1
    state.requests_at = till + (burst.requests - 1) * every.requests
    state.tokens_at = till + math.max(burst.tokens - tokens, 0) * every.tokens
  end
  return 1, 0
end

local is_taken, wait
if op == 'ask' then
  is_taken, wait =
    ask(tonumber(ARGV[8]), ARGV[9] == '1', tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]))
else
  is_taken, wait = settle(tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[12]), tonumber(ARGV[13]),
    tonumber(ARGV[14]), ARGV[15] == '1')
end

if who ~= '' then
  local write = {}
  for _, field in ipairs(FIELDS) do
    write[#write + 1] = field
    write[#write + 1] = string.format('%.0f', state[field])
  end
  redis.call('HSET', KEYS[1], unpack(write))
  redis.call('PEXPIRE', KEYS[1], KEPT_MS)
  local lately = math.max(window * 2, 10000000)
  redis.call('ZADD', KEYS[2], now, who)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - lately))
  redis.call('PEXPIRE', KEYS[2], math.ceil(lately / 1000))
end
return { is_taken, math.ceil(wait), state.name, redis.call('ZCARD', KEYS[2]), limit.requests, limit.tokens,
  math.floor(state.shifted) }
