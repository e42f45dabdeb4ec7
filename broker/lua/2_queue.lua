-- The queue of a pool. A queued job is in one place: the backlog of its tenant in its lane, or the lane's first backlog (tenant FIRST), whose
-- jobs come before all turns: those that were given back or lost, are due again, or were moved to the top. (Two kinds of queued jobs have no
-- turn: those whose next attempt is not due, in `delayed`, and those that wait for a running identical job, counted in `attached`.)
--
-- Tenants take turns by start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996), and a turn costs what the job costs: its tokens
-- by estimate, corrected when it has ended (virtual token counter, Y. Sheng et al., OSDI 2024). A job has its tenant's turn as its tag; the
-- smallest is next. The tenant's next turn is the tag + cost / weight. Jobs that come before all turns pay at once. A tenant that comes back begins at the turn that the lane has reached.
--
-- pool:<pool> holds, by lane, depth (queued jobs with a turn), attached and v (the turn that the lane has reached); active and bulk: running
-- jobs; run and bulk_run: mean milliseconds of a run; paused; replica: slots of its last worker, those for bulk, and the ms that it took to start.
local FIRST = ''

-- By how much a cost moves a tenant's turn. Whole numbers: their sums are exact, and so are positions.
local function step_of(tenant, cost) return math.floor(cost * 1000 / (limit_of(tenant, 'weight') or 1) + 0.5) end

-- One entry of a bell is enough: who takes it claims, and rings on if work is left.
local function toll(bell)
  if redis.call('LPUSH', bell, 1) > 1 then redis.call('LTRIM', bell, 0, 0) end
end

-- Wake one worker that waits for work of this lane.
local function ring(pool, lane) toll(lane == 'bulk' and K.bulk_bell(pool) or K.bell(pool)) end

local function ring_all(pool)
  for _, lane in ipairs(LANES) do
    if redis.call('EXISTS', K.turns(pool, lane)) == 1 then ring(pool, lane) end
  end
end

-- Whether the worker that ran this prefix last is live and has room, so that a job may be left to it.
local function warm_worker(pool, affinity)
  local worker = redis.call('GET', K.affinity(pool, affinity))
  local slots = worker and redis.call('HGET', K.slots(pool), worker)
  if not slots then return nil end
  local lease = number(redis.call('ZSCORE', K.leases(), worker))
  local ttl = number(redis.call('HGET', K.worker(worker), 'ttl')) or 0
  local fresh = lease and lease - now_ms() > ttl / 2 -- it sends three heartbeats in a lease
  local room = redis.call('SCARD', K.worker_jobs(worker)) < number(string.match(slots, '%d+'))
  return fresh and room and worker or nil
end

-- Add a job to its tenant's backlog. known, v: where the tenant's next cost begins (`tags`), and the turn that the lane has reached.
local function join(pool, lane, tenant, id, cost, known, v)
  local begins = math.max(known or 0, v)
  if redis.call('ZADD', K.turns(pool, lane), 'NX', exactly(begins), tenant) == 0 then begins = known or v end
  redis.call('HSET', K.tags(pool, lane), tenant, exactly(begins + step_of(tenant, cost)))
  redis.call('ZADD', K.backlog(pool, lane, tenant), exactly(begins), id)
end

-- Queue a job behind the others of its tenant.
local function enqueue(pool, lane, tenant, id, cost, affinity)
  local p = redis.call('HMGET', K.pool(pool), 'depth:' .. lane, 'v:' .. lane)
  local known = (number(p[1]) or 0) > 0 and number(redis.call('HGET', K.tags(pool, lane), tenant)) or nil
  join(pool, lane, tenant, id, cost, known, number(p[2]) or 0)
  redis.call('HINCRBY', K.pool(pool), 'depth:' .. lane, 1)
  local warm = affinity and lane ~= 'bulk' and warm_worker(pool, affinity)
  if warm then
    toll(K.own_bell(warm))
    redis.call('PEXPIRE', K.own_bell(warm), 1000)
  end
  ring(pool, lane)
end

-- Make a job the first of its tenant's backlog. Returns false if that is empty.
local function put_ahead(pool, lane, tenant, id, cost)
  local backlog = K.backlog(pool, lane, tenant)
  local head = redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')[2]
  if head then redis.call('ZADD', backlog, exactly(head - math.max(1, step_of(tenant, cost))), id) end
  return head ~= nil
end

-- Queue a job before the others of its tenant.
local function enqueue_ahead(pool, lane, tenant, id, cost)
  if not put_ahead(pool, lane, tenant, id, cost) then return enqueue(pool, lane, tenant, id, cost) end
  redis.call('HINCRBY', K.pool(pool), 'depth:' .. lane, 1)
  ring(pool, lane)
end

-- Queue a job before all turns of its lane. top: before all others, too; else they have the order of their creation.
local function enqueue_first(pool, lane, id, created, top)
  local first = K.backlog(pool, lane, FIRST)
  local order = created
  if top then
    local head = redis.call('ZRANGE', first, 0, 0, 'WITHSCORES')[2]
    order = math.min(0, number(head) or 0) - 1
  end
  redis.call('ZADD', first, exactly(order), id)
  redis.call('ZADD', K.turns(pool, lane), '-inf', FIRST)
  redis.call('HINCRBY', K.pool(pool), 'depth:' .. lane, 1)
  ring(pool, lane)
end

-- A backlog is empty now: its tenant has no turn any more, but its next one is known as long as others wait in the lane.
local function leave_turns(pool, lane, tenant, turn)
  redis.call('ZREM', K.turns(pool, lane), tenant)
  if tenant == FIRST then return end
  if turn == math.huge then
    local place = lane .. ' ' .. tenant
    turn = number(redis.call('HGET', K.parked(pool), place)) or 0
    redis.call('HDEL', K.parked(pool), place)
  end
  redis.call('HSET', K.tags(pool, lane), tenant, exactly(turn))
end

local function forget_tags(pool, lane)
  if redis.call('EXISTS', K.turns(pool, lane)) == 0 then redis.call('DEL', K.tags(pool, lane)) end
end

local function count_attached(pool, lane, tenant, by)
  redis.call('HINCRBY', K.pool(pool), 'attached:' .. lane, by)
  local place = lane .. ' ' .. tenant
  if redis.call('HINCRBY', K.attached(pool), place, by) <= 0 then redis.call('HDEL', K.attached(pool), place) end
end

-- Close the gap that a job leaves in its tenant's line: those before it or those behind it move up, whoever are fewer. One call moves MOVED
-- at most; a gap for which that is too few stays until its turn has come, and positions behind it are estimates.
local MOVED = 500

local function close_gap(pool, lane, tenant, backlog, rank)
  local behind = redis.call('ZCARD', backlog) - rank - 1
  local fewer = math.min(rank, behind)
  if rank == 0 or moved + fewer > MOVED then return end
  moved = moved + fewer
  local here = redis.call('ZRANGE', backlog, rank, rank + 1, 'WITHSCORES')
  local from, to, by = 0, rank - 1, (here[4] or redis.call('HGET', K.tags(pool, lane), tenant)) - here[2]
  if behind < rank then
    from, to, by = rank + 1, -1, -by
    redis.call('HINCRBYFLOAT', K.tags(pool, lane), tenant, exactly(by))
  end
  local jobs, scores = redis.call('ZRANGE', backlog, from, to, 'WITHSCORES'), {}
  for i = 1, #jobs, 2 do scores[i], scores[i + 1] = exactly(jobs[i + 1] + by), jobs[i] end
  if scores[1] then redis.call('ZADD', backlog, unpack(scores)) end
end

-- Take a queued job out of its place. Returns false if it has no turn.
local function dequeue(pool, lane, tenant, id, leader)
  for _, owner in ipairs({tenant, FIRST}) do
    local backlog = K.backlog(pool, lane, owner)
    local rank = redis.call('ZRANK', backlog, id)
    if rank then
      if owner ~= FIRST then close_gap(pool, lane, owner, backlog, rank) end
      redis.call('ZREM', backlog, id)
      redis.call('HINCRBY', K.pool(pool), 'depth:' .. lane, -1)
      if redis.call('EXISTS', backlog) == 0 then
        leave_turns(pool, lane, owner, number(redis.call('ZSCORE', K.turns(pool, lane), owner)))
        forget_tags(pool, lane)
      end
      return true
    end
  end
  if redis.call('ZREM', K.delayed(), id) == 0 and leader then count_attached(pool, lane, tenant, -1) end
  return false
end

local function turn_of(pool, lane, tenant)
  local turn = number(redis.call('ZSCORE', K.turns(pool, lane), tenant))
  if turn == math.huge then return number(redis.call('HGET', K.parked(pool), lane .. ' ' .. tenant)) or 0 end
  return turn
end

-- Have a tenant pay, or get back, what its job costs. What it gets back brings it ahead of the turn that the lane has reached by one job at
-- most: all of it may be of a time before the lane was empty, whose turns are forgotten.
local function charge(pool, lane, tenant, amount)
  local known = number(redis.call('HGET', K.tags(pool, lane), tenant))
  if not known or amount == 0 then return end
  local by, turn = step_of(tenant, amount), turn_of(pool, lane, tenant)
  if not turn then return redis.call('HSET', K.tags(pool, lane), tenant, exactly(known + by)) end
  if by < 0 then
    local reached = number(redis.call('HGET', K.pool(pool), 'v:' .. lane)) or 0
    by = math.max(by, math.min(0, reached + by - turn))
  end
  if number(redis.call('ZADD', K.turns(pool, lane), 'XX', 'INCR', exactly(by), tenant)) == math.huge then
    redis.call('HINCRBYFLOAT', K.parked(pool), lane .. ' ' .. tenant, exactly(by))
  end
end

-- Whether a tenant's bound allows no more, beside `all` jobs, of these `bulk` of bulk, that are about to run.
local function at_bound(pool, lane, tenant, all, bulk)
  local most = bound_of(tenant)
  if not most then return false end
  all = all + (number(redis.call('HGET', K.active(pool), tenant)) or 0)
  bulk = bulk + (number(redis.call('HGET', K.active_bulk(pool), tenant)) or 0)
  return not fits(lane, most, all, bulk)
end

-- A tenant at its bound waits, in this lane, until one of its jobs has ended.
local function park(pool, lane, tenant, turn)
  redis.call('HSET', K.parked(pool), lane .. ' ' .. tenant, exactly(turn))
  redis.call('ZADD', K.turns(pool, lane), '+inf', tenant)
end

local function unpark(pool, tenant)
  for _, lane in ipairs(LANES) do
    local place = lane .. ' ' .. tenant
    local turn = redis.call('HGET', K.parked(pool), place)
    if turn then
      redis.call('HDEL', K.parked(pool), place)
      redis.call('ZADD', K.turns(pool, lane), 'XX', turn, tenant)
      ring(pool, lane)
    end
  end
end

-- A job runs no more: others may have its place.
local function release_place(pool, lane, tenant)
  redis.call('HINCRBY', K.pool(pool), 'active', -1)
  redis.call('HINCRBY', K.active(pool), tenant, -1)
  if lane == 'bulk' then
    redis.call('HINCRBY', K.pool(pool), 'bulk', -1)
    redis.call('HINCRBY', K.active_bulk(pool), tenant, -1)
  end
  if bound_of(tenant) then unpark(pool, tenant) end
  if limit('max_active') then ring_all(pool) end
end
