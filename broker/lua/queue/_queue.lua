-- The fair queue: what waits in a lane, and in which order it is let down to the lane's list, from which workers pop.
--
-- A lane's list holds a short window of messages; the rest waits in one backlog per tenant. Tenants take turns by
-- start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996): the n-th next job of a tenant has the turn
-- max(turn reached, the tenant's next) + n / weight; the smallest turn is let down first. List and window are in the order of turns: a
-- newcomer whose turn comes sooner is put between, and the last one goes back to its backlog.
--
-- Invariants (tests/invariants.py): queued = window + backlogs; turns = tenants with a backlog that are not parked; waiting = queued by
-- tenant; admitted = windows and running, by tenant; admitted_bulk = of these, those of the lane bulk.
local LANES = {'realtime', 'high', 'normal', 'low', 'bulk'}
local WINDOW = 32

local function exactly(number) return string.format('%.17g', number) end

local function place_of(lane)
  for place, name in ipairs(LANES) do
    if name == lane then return place end
  end
end

local paused_read = {}
local function is_paused(pool)
  if paused_read[pool] == nil then paused_read[pool] = redis.call('SISMEMBER', K.paused(), pool) == 1 end
  return paused_read[pool]
end

local limits_read
local function limit(name)
  if not limits_read then
    limits_read = {}
    local flat = redis.call('HGETALL', K.limits())
    for i = 1, #flat, 2 do limits_read[flat[i]] = tonumber(flat[i + 1]) end
  end
  return limits_read[name]
end

-- ---- turns ------------------------------------------------------------------------------------------------------

-- The turn that a lane has reached: of the next job to be popped, or else of the next to be let down, or else the one at which a
-- tenant was parked last (kept under the empty name).
local function reached(queue)
  local first = redis.call('ZRANGE', K.window(queue), 0, 0, 'WITHSCORES')[2]
  first = first or redis.call('ZRANGE', K.turns(queue), 0, 0, 'WITHSCORES')[2] or redis.call('HGET', K.fair(queue), '')
  return tonumber(first or nil) or 0
end

-- The turn of a tenant's next job, where none of its jobs waits for one.
local function turn_of(queue, tenant)
  return math.max(reached(queue), tonumber(redis.call('HGET', K.fair(queue), tenant) or nil) or 0)
end

local function step_of(tenant) return 1 / (limit('weight:' .. tenant) or 1) end

-- Put a job among those of its tenant that wait for their turn. order: smaller is sooner.
local function put_back(pool, lane, queue, id, tenant, order, turn)
  redis.call('ZADD', K.backlog(queue, tenant), exactly(order), id)
  if redis.call('ZSCORE', K.parked(pool), lane .. ' ' .. tenant) then return end
  local known = redis.call('ZSCORE', K.turns(queue), tenant)
  if not known or turn and turn < tonumber(known) then
    redis.call('ZADD', K.turns(queue), exactly(turn or turn_of(queue, tenant)), tenant)
  end
end

local function count_down(key, tenant)
  if redis.call('HINCRBY', key, tenant, -1) <= 0 then redis.call('HDEL', key, tenant) end
end

local function admit(pool, lane, tenant)
  redis.call('HINCRBY', K.admitted(pool), tenant, 1)
  if lane == 'bulk' then redis.call('HINCRBY', K.admitted_bulk(pool), tenant, 1) end
end

local function dismiss(pool, lane, tenant)
  count_down(K.admitted(pool), tenant)
  if lane == 'bulk' then count_down(K.admitted_bulk(pool), tenant) end
end

local function sum_of(key)
  local sum = 0
  for _, n in ipairs(redis.call('HVALS', key)) do sum = sum + n end
  return sum
end

-- Jobs of all tenants that are let down or running, and how many of them are bulk.
local function count_admitted(pool) return sum_of(K.admitted(pool)), sum_of(K.admitted_bulk(pool)) end

-- Places under a bound that bulk never gets, so that it shuts nobody out.
local function kept_from_bulk(most) return math.max(1, math.ceil(most / 4)) end

-- Whether a bound lets one more job of this lane through beside so many, of which so many are bulk. One bulk job may always run: under
-- a bound of 1 an interactive one then runs beside it.
local function fits(lane, most, all, bulk)
  local kept = kept_from_bulk(most)
  if lane == 'bulk' then return all < most and bulk < math.max(1, most - kept) end
  return all < most or all - bulk < kept
end

-- The list of the worker that ran this job's prefix last, and the worker's node.
local function own_list(pool, id)
  local key = redis.call('HGET', K.job(id), 'affinity')
  local node = key and redis.call('GET', K.affinity(pool, key))
  if not node then return nil end
  return K.own_queue(pool, node), node
end

-- Take a job of a window back to its backlog: this one, or the last. Returns false where a worker has popped its message already.
local function take_back(pool, lane, queue, id)
  id = id or redis.call('ZREVRANGE', K.window(queue), 0, 0)[1]
  if not id then return false end
  local text = message(id, queue) or ''
  if redis.call('LREM', queue, -1, text) == 0 then
    local own = own_list(pool, id)
    if not own or redis.call('LREM', own, 1, text) == 0 then return false end
  end
  local j = redis.call('HMGET', K.job(id), 'tenant', 'created')
  local turn = tonumber(redis.call('ZSCORE', K.window(queue), id))
  redis.call('ZREM', K.window(queue), id)
  dismiss(pool, lane, j[1])
  local head = redis.call('ZRANGE', K.backlog(queue, j[1]), 0, 0, 'WITHSCORES')
  local order = tonumber(j[2]) * 1000
  if head[2] then order = math.min(order, tonumber(head[2]) - 1) end
  put_back(pool, lane, queue, id, j[1], order, turn)
  return true
end

-- ---- letting down -----------------------------------------------------------------------------------------------

-- The list of the worker that ran this job's prefix last, where it has room now and has not missed a beat (it beats three times in a
-- lease). Bulk is left to the lane controller.
local function preferred_list(pool, lane, id)
  if lane == 'bulk' then return nil end
  local list, node = own_list(pool, id)
  if not list then return nil end
  local now = now_ms()
  local live = redis.call('ZRANGEBYSCORE', K.workers(), now, '+inf', 'WITHSCORES')
  for i = 1, #live, 2 do
    local w = redis.call('HMGET', K.worker(live[i]), 'node', 'pool', 'cap', 'ttl')
    if w[1] == node and w[2] == pool and w[3] then
      local fresh = live[i + 1] - now > (tonumber(w[4]) or 0) / 2
      local taken = redis.call('SCARD', K.worker_jobs(live[i])) + redis.call('LLEN', list)
      return fresh and taken < tonumber(w[3]) and list or nil
    end
  end
  return nil
end

-- Push a job's message, in the order of turns or, at_head, before all.
local function let_down(pool, lane, queue, id, turn, at_head)
  local text = message(id, queue)
  local own = not at_head and preferred_list(pool, lane, id)
  if own then
    redis.call('LPUSH', own, text)
  elseif at_head then
    redis.call('RPUSH', queue, text)
  else
    local after = redis.call('ZRANGEBYSCORE', K.window(queue), '(' .. exactly(turn), '+inf', 'LIMIT', 0, 1)[1]
    if not after then
      redis.call('LPUSH', queue, text)
    elseif redis.call('LINSERT', queue, 'AFTER', message(after, queue), text) <= 0 then
      redis.call('RPUSH', queue, text) -- that one was popped, and so were all before it
    end
  end
  redis.call('ZADD', K.window(queue), exactly(turn), id)
end

-- Whether one more job may be on its way to the engines: a higher lane takes the place of a lower one's last.
local function has_ticket(pool, lane)
  local most = limit('max_active')
  if not most or fits(lane, most, count_admitted(pool)) then return true end
  for i = #LANES, place_of(lane) + 1, -1 do
    if take_back(pool, LANES[i], K.queue(pool, LANES[i])) then return true end
  end
  return false
end

local function window_has_room(pool, lane, queue, turn)
  if redis.call('ZCARD', K.window(queue)) < WINDOW then return true end
  local last = redis.call('ZREVRANGE', K.window(queue), 0, 0, 'WITHSCORES')
  return turn < tonumber(last[2]) and take_back(pool, lane, queue)
end

local function bound_of(tenant) return limit('max_active:' .. tenant) or limit('tenant_max_active') end

local function at_bound(pool, lane, tenant)
  local most = bound_of(tenant)
  if not most then return false end
  local all, bulk = redis.call('HGET', K.admitted(pool), tenant), redis.call('HGET', K.admitted_bulk(pool), tenant)
  return not fits(lane, most, tonumber(all or nil) or 0, tonumber(bulk or nil) or 0)
end

-- A tenant at its bound waits, in this lane, until one of its jobs has ended.
local function park(pool, lane, queue, tenant, turn)
  redis.call('ZREM', K.turns(queue), tenant)
  redis.call('ZADD', K.parked(pool), exactly(turn), lane .. ' ' .. tenant)
  redis.call('HSET', K.fair(queue), '', exactly(turn))
end

-- A tenant's job of a lower lane, let down and not yet running, makes way for one of this lane.
local function make_way(pool, lane, tenant)
  for i = #LANES, place_of(lane) + 1, -1 do
    local queue = K.queue(pool, LANES[i])
    for _, id in ipairs(redis.call('ZREVRANGE', K.window(queue), 0, -1)) do
      if redis.call('HGET', K.job(id), 'tenant') == tenant and take_back(pool, LANES[i], queue, id) then
        local turn = redis.call('ZSCORE', K.turns(queue), tenant)
        if turn then park(pool, LANES[i], queue, tenant, tonumber(turn)) end
        return true
      end
    end
  end
  return false
end

-- Let down what may be let down now in one lane.
local function offer(pool, lane)
  local queue = K.queue(pool, lane)
  while true do
    local first = redis.call('ZRANGE', K.turns(queue), 0, 0, 'WITHSCORES')
    local tenant, turn = first[1], tonumber(first[2])
    if not tenant or is_paused(pool) or not envelope() then return end
    if at_bound(pool, lane, tenant) and not make_way(pool, lane, tenant) then
      park(pool, lane, queue, tenant, turn)
    elseif window_has_room(pool, lane, queue, turn) and has_ticket(pool, lane) then
      local backlog = K.backlog(queue, tenant)
      let_down(pool, lane, queue, redis.call('ZPOPMIN', backlog)[1], turn)
      admit(pool, lane, tenant)
      local following = exactly(turn + step_of(tenant))
      if redis.call('EXISTS', backlog) == 1 then
        redis.call('ZADD', K.turns(queue), following, tenant)
      else
        redis.call('ZREM', K.turns(queue), tenant)
        redis.call('HSET', K.fair(queue), tenant, following)
      end
    else
      return
    end
  end
end

local function offer_all(pool)
  for _, lane in ipairs(LANES) do offer(pool, lane) end
end

-- Give parked tenants another chance; one that is still at its bound is parked again.
local function unpark(pool)
  local parked = redis.call('ZRANGE', K.parked(pool), 0, -1, 'WITHSCORES')
  redis.call('DEL', K.parked(pool))
  for i = 1, #parked, 2 do
    local lane, tenant = string.match(parked[i], '^(%S+) (.+)$')
    local queue = K.queue(pool, lane)
    redis.call('ZADD', K.turns(queue), exactly(math.max(tonumber(parked[i + 1]), reached(queue))), tenant)
  end
end

-- A job is no longer on its way to an engine, nor on one: others may have its place.
local function give_up_place(pool, lane, tenant)
  dismiss(pool, lane, tenant)
  local parked = redis.call('EXISTS', K.parked(pool)) == 1
  if parked then unpark(pool) end
  if parked or limit('max_active') then offer_all(pool) end
end

-- ---- entering and leaving ---------------------------------------------------------------------------------------

local function count_waiting(pool, tenant, by)
  if redis.call('HINCRBY', K.waiting(pool), tenant, by) <= 0 then redis.call('HDEL', K.waiting(pool), tenant) end
end

-- A job enters a lane; it is let down at once where nobody is before it.
local function enter(pool, lane, id, tenant, order, now)
  local queue = K.queue(pool, lane)
  redis.call('SADD', K.queues(), queue)
  redis.call('ZADD', K.queued(queue), now, id)
  count_waiting(pool, tenant, 1)
  local alone = redis.call('EXISTS', K.turns(queue)) == 0 and redis.call('EXISTS', K.parked(pool)) == 0
  if alone and not is_paused(pool) and envelope() and not at_bound(pool, lane, tenant) then
    local turn = turn_of(queue, tenant)
    if window_has_room(pool, lane, queue, turn) and has_ticket(pool, lane) then
      let_down(pool, lane, queue, id, turn)
      admit(pool, lane, tenant)
      redis.call('HSET', K.fair(queue), tenant, exactly(turn + step_of(tenant)))
      return
    end
  end
  put_back(pool, lane, queue, id, tenant, order)
  offer(pool, lane)
end

-- A job is to be the next of its lane: it was running (then it has a place), or somebody wants it so.
local function enter_at_head(pool, lane, id, tenant, now, has_place)
  local queue = K.queue(pool, lane)
  redis.call('SADD', K.queues(), queue)
  redis.call('ZADD', K.queued(queue), now, id)
  count_waiting(pool, tenant, 1)
  local down = not is_paused(pool) and envelope()
    and (has_place or has_ticket(pool, lane) or take_back(pool, lane, queue))
  if down then
    local first = tonumber(redis.call('ZRANGE', K.window(queue), 0, 0, 'WITHSCORES')[2] or nil)
    local turn = reached(queue)
    -- A little before the first, so that the window's order is the list's; no more, as it may be taken back with this turn.
    if first then turn = math.min(turn, first - 0.001) end
    let_down(pool, lane, queue, id, turn, true)
    if not has_place then admit(pool, lane, tenant) end
  else
    if has_place then dismiss(pool, lane, tenant) end
    local head = redis.call('ZRANGE', K.backlog(queue, tenant), 0, 0, 'WITHSCORES')[2]
    put_back(pool, lane, queue, id, tenant, math.min(0, (tonumber(head or nil) or 1) - 1))
  end
end

-- A queued job leaves its lane (claimed: for an engine). Returns false where it was not in it: it waits for its next attempt.
local function leave(pool, lane, id, tenant, claimed)
  local queue = K.queue(pool, lane)
  if redis.call('ZREM', K.queued(queue), id) == 0 then
    redis.call('ZREM', K.delayed(), id)
    if claimed then admit(pool, lane, tenant) end
    return false
  end
  count_waiting(pool, tenant, -1)
  local was_down = redis.call('ZREM', K.window(queue), id) == 1
  if not was_down then -- it waited for its turn; claimed: its message is an older one's, or somebody pushed it
    local backlog = K.backlog(queue, tenant)
    redis.call('ZREM', backlog, id)
    if redis.call('EXISTS', backlog) == 0 then
      local next_turn = redis.call('ZSCORE', K.turns(queue), tenant)
      if next_turn then redis.call('HSET', K.fair(queue), tenant, next_turn) end
      redis.call('ZREM', K.turns(queue), tenant)
      redis.call('ZREM', K.parked(pool), lane .. ' ' .. tenant)
    end
    if claimed then admit(pool, lane, tenant) end
  elseif not claimed then
    redis.call('LREM', queue, 1, message(id, queue) or '')
  end
  if redis.call('EXISTS', K.queued(queue)) == 0 then redis.call('DEL', K.fair(queue)) end
  if was_down and not claimed then give_up_place(pool, lane, tenant) end
  offer(pool, lane)
  return true
end
