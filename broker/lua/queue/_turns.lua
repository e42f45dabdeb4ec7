-- The order within a lane: tenants take turns by start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996). The n-th next job of
-- a tenant has the turn max(turn reached, the tenant's next) + n / weight. The job with the smallest turn is next.

-- The turn that a lane has reached: of the next job to be popped, or else of the next to be dispatched, or else the turn at which a
-- tenant was parked last (kept under the empty name).
local function current_turn(queue)
  local first = redis.call('ZRANGE', K.window(queue), 0, 0, 'WITHSCORES')[2]
  first = first or redis.call('ZRANGE', K.turns(queue), 0, 0, 'WITHSCORES')[2] or redis.call('HGET', K.fair(queue), '')
  return tonumber(first or nil) or 0
end

-- The turn of the next job of a tenant that has no backlog.
local function turn_of_next(queue, tenant)
  return math.max(current_turn(queue), tonumber(redis.call('HGET', K.fair(queue), tenant) or nil) or 0)
end

local function step_of(tenant) return 1 / (limit('weight:' .. tenant) or 1) end

-- Add a job to its tenant's backlog. order: smaller is sooner.
local function add_to_backlog(pool, lane, queue, id, tenant, order, turn)
  redis.call('ZADD', K.backlog(queue, tenant), exactly(order), id)
  if redis.call('ZSCORE', K.parked(pool), lane .. ' ' .. tenant) then return end
  local known = redis.call('ZSCORE', K.turns(queue), tenant)
  if not known or turn and turn < tonumber(known) then
    redis.call('ZADD', K.turns(queue), exactly(turn or turn_of_next(queue, tenant)), tenant)
  end
end

-- A tenant at its bound waits, in this lane, until one of its jobs has ended.
local function park(pool, lane, queue, tenant, turn)
  redis.call('ZREM', K.turns(queue), tenant)
  redis.call('ZADD', K.parked(pool), exactly(turn), lane .. ' ' .. tenant)
  redis.call('HSET', K.fair(queue), '', exactly(turn))
end

-- Give parked tenants another chance. The dispatch parks those again that are still at their bound.
local function unpark(pool)
  local parked = redis.call('ZRANGE', K.parked(pool), 0, -1, 'WITHSCORES')
  redis.call('DEL', K.parked(pool))
  for i = 1, #parked, 2 do
    local lane, tenant = string.match(parked[i], '^(%S+) (.+)$')
    local queue = K.queue(pool, lane)
    redis.call('ZADD', K.turns(queue), exactly(math.max(tonumber(parked[i + 1]), current_turn(queue))), tenant)
  end
end
