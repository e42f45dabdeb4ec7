-- Positions and waits: how many jobs come before one, and how long it will wait by the pool's measured rate.
local RATE_MS = 30000

-- Count a start. rate:<pool> holds, for interactive lanes (i) and bulk (b), n starts in t milliseconds during which others waited,
-- both fading with RATE_MS; run: the mean milliseconds of a run; cap: slots of the live workers; bulk_cap: the slots that bulk may have.
local function note_start(pool, lane, now)
  local kind = lane == 'bulk' and 'b' or 'i'
  local key = K.rate(pool)
  local s = redis.call('HMGET', key, kind .. 'n', kind .. 't', kind .. 'last')
  local busy = redis.call('EXISTS', K.queued(K.queue(pool, lane))) == 1
  if s[3] then
    local gap = now - tonumber(s[3])
    local fade = math.exp(-gap / RATE_MS)
    local n, t = (tonumber(s[1]) or 0) * fade + 1, (tonumber(s[2]) or 0) * fade + gap
    redis.call('HSET', key, kind .. 'n', exactly(n), kind .. 't', exactly(t), kind .. 'last', now)
    if not busy then redis.call('HDEL', key, kind .. 'last') end
  elseif busy then
    redis.call('HSET', key, kind .. 'last', now)
  end
end

local function note_run(pool, started, now)
  local mean = tonumber(redis.call('HGET', K.rate(pool), 'run') or nil)
  local took = now - started
  redis.call('HSET', K.rate(pool), 'run', exactly(mean and mean + (took - mean) / 32 or took))
end

-- Add up the slots of a pool's live workers.
local function count_slots(pool, now)
  local slots, for_bulk = 0, 0
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.workers(), now, '+inf')) do
    local w = redis.call('HMGET', K.worker(worker), 'pool', 'cap', 'bulk_cap')
    if w[1] == pool and w[2] then -- else it has registered and has sent no heartbeat yet
      slots = slots + tonumber(w[2])
      for_bulk = for_bulk + tonumber(w[3] or w[2])
    end
  end
  redis.call('HSET', K.rate(pool), 'cap', slots, 'bulk_cap', for_bulk)
end

-- Jobs on engines now, and how many of them are bulk.
local function count_running(pool)
  local all, bulk = count_admitted(pool)
  for _, lane in ipairs(LANES) do
    local dispatched = redis.call('ZCARD', K.window(K.queue(pool, lane)))
    all = all - dispatched
    if lane == 'bulk' then bulk = bulk - dispatched end
  end
  return all, bulk
end

-- Jobs of this lane that may run at once, by the workers' slots and by max_active; nil if no slots were counted yet.
local function slots_for(pool, lane)
  local r = redis.call('HMGET', K.rate(pool), 'cap', 'bulk_cap')
  local cap, most = tonumber(r[1] or nil), limit('max_active')
  if not cap then return nil end
  if lane ~= 'bulk' then return math.min(cap, most or cap) end
  return math.min(tonumber(r[2] or r[1]), most and math.max(1, most - kept_from_bulk(most)) or cap)
end

-- How many of these slots are free.
local function free_slots(pool, lane)
  local most = slots_for(pool, lane)
  if not most then return nil end
  local all, bulk = count_running(pool)
  if lane ~= 'bulk' then return math.max(0, most - all) end
  return math.max(0, math.min(most - bulk, slots_for(pool, 'normal') - all))
end

-- Milliseconds until the start of a job with `ahead` jobs before it, `rank` of them in its tenant's backlog; and milliseconds of a run.
-- nil: nothing was measured yet, or the pool is paused.
local function estimate_start(pool, lane, ahead, tenant, rank)
  local kind = lane == 'bulk' and 'b' or 'i'
  local r = redis.call('HMGET', K.rate(pool), kind .. 'n', kind .. 't', 'run')
  local n, t, run = tonumber(r[1] or nil), tonumber(r[2] or nil), tonumber(r[3] or nil)
  if is_paused(pool) then return nil, run end
  local most, eta = slots_for(pool, lane), nil
  if most and ahead < most and ahead < free_slots(pool, lane) then
    eta = 0
  elseif n and t and t > 0 then
    eta = math.floor((ahead + 1) * t / n)
  elseif run and most and most > 0 then
    eta = math.floor((ahead + 1) * run / most)
  end
  if rank and at_bound(pool, lane, tenant) then -- jobs of its own tenant must end first
    if not run then return nil, nil end
    eta = math.max(eta or 0, math.floor((rank + 1) * run / math.max(1, bound_of(tenant))))
  end
  return eta, run
end

-- How many jobs come before the job with this rank (from 0) in its tenant's backlog and this turn.
local function count_before(pool, lane, tenant, rank, turn)
  local queue = K.queue(pool, lane)
  local before = rank + redis.call('ZCOUNT', K.window(queue), '-inf', exactly(turn))
  for i = 1, rank_of(lane) - 1 do before = before + redis.call('ZCARD', K.queued(K.queue(pool, LANES[i]))) end
  local turns = redis.call('ZRANGEBYSCORE', K.turns(queue), '-inf', exactly(turn), 'WITHSCORES')
  for i = 1, #turns, 2 do
    local other, their = turns[i], tonumber(turns[i + 1])
    if other ~= tenant then
      local sooner = math.ceil((turn - their) / step_of(other))
      if other < tenant and their + sooner * step_of(other) == turn then sooner = sooner + 1 end
      before = before + math.min(sooner, redis.call('ZCARD', K.backlog(queue, other)))
    end
  end
  return before
end

-- How many jobs of the window come before this one; nil: it is not there. Of those with the same turn (other tenants'), the list has the
-- order: a worker pops at its end. A message that is not in the list any more is at a worker.
local function rank_in_window(queue, id)
  local window = K.window(queue)
  local turn = redis.call('ZSCORE', window, id)
  if not turn then return nil end
  local rank, same = redis.call('ZCOUNT', window, '-inf', '(' .. turn), redis.call('ZRANGEBYSCORE', window, turn, turn)
  local mine = #same > 1 and redis.call('LPOS', queue, message(id, queue) or '')
  for _, other in ipairs(mine and same or {}) do
    local at = other ~= id and redis.call('LPOS', queue, message(other, queue) or '')
    if other ~= id and (not at or at > mine) then rank = rank + 1 end
  end
  return rank
end

-- How many jobs come before a queued one, and how many of them in its tenant's backlog (nil: it was dispatched); nil: it is not in its lane.
local function position_of(pool, lane, id, tenant)
  local queue = K.queue(pool, lane)
  local rank = rank_in_window(queue, id)
  if rank then
    for i = 1, rank_of(lane) - 1 do rank = rank + redis.call('ZCARD', K.queued(K.queue(pool, LANES[i]))) end
    return rank
  end
  rank = redis.call('ZRANK', K.backlog(queue, tenant), id)
  if not rank then return nil end
  local turn = redis.call('ZSCORE', K.turns(queue), tenant) or redis.call('ZSCORE', K.parked(pool), lane .. ' ' .. tenant)
  return count_before(pool, lane, tenant, rank, (tonumber(turn or nil) or 0) + rank * step_of(tenant)), rank
end

-- How many jobs would come before a new one of this tenant, and how many of them in its backlog.
local function position_of_next(pool, lane, tenant)
  local queue = K.queue(pool, lane)
  local rank = redis.call('ZCARD', K.backlog(queue, tenant))
  local turn = redis.call('ZSCORE', K.turns(queue), tenant) or redis.call('ZSCORE', K.parked(pool), lane .. ' ' .. tenant)
  return count_before(pool, lane, tenant, rank, (tonumber(turn or nil) or turn_of_next(queue, tenant)) + rank * step_of(tenant)), rank
end
