-- What operators do to a queue and see of it.

-- What is done to a pool is done to the version of it that serves, too.
define('pause', function(a)
  local home = home_of(a.pool)
  local changed = set_paused(K.pool(home), a.paused)
  if home ~= a.pool then set_paused(K.pool(a.pool), a.paused) end -- jobs that are not moved yet
  if changed then audit(a, a.paused and 'pool.pause' or 'pool.resume', 'pool ' .. home) end
  if not a.paused then ring_all(home) end
  return changed
end)

define('unpoison', function(a)
  local home = home_of(a.pool)
  local known = redis.call('HLEN', K.poison(home))
  redis.call('DEL', K.poison(home), K.poison(a.pool))
  if known > 0 then audit(a, 'pool.unpoison', 'pool ' .. home, {kinds = known}) end
  return known
end)

-- One step of a purge. Only the first that cancels a job has `by`, so that a purge is one entry of the audit stream.
define('purge', function(a)
  local cancelled, waiting = 0, redis.call('HGET', K.pool(a.pool), 'depth:' .. a.lane)
  local changed = false
  for _, id in ipairs(a.ids) do
    local j = read(K.job(id), {'state', 'pool', 'lane'})
    if j.state == 'queued' and j.pool == a.pool and j.lane == a.lane then
      j.state, changed = stop_job(id, ON.cancel, a.retention_ms), true
    end
    if j.state == 'cancelled' then cancelled = cancelled + 1 end -- at once, or before the client library sent the call twice
  end
  if changed then audit(a, 'lane.purge', 'lane ' .. a.pool .. ' ' .. a.lane, {waiting = number(waiting)}) end
  return cancelled
end)

-- Tenants at their bound get another chance.
define('set_limits', function(a)
  redis.call('DEL', K.limits())
  write(K.limits(), a.limits)
  if redis.call('EXISTS', K.tenants()) == 1 then redis.call('HSET', K.limits(), 'by_tenant', 1) end
  if redis.call('EXISTS', K.webhooks()) == 1 then redis.call('HSET', K.limits(), 'webhooks', 1) end
  for _, pool in ipairs(redis.call('SMEMBERS', K.pools())) do
    for _, place in ipairs(redis.call('HKEYS', K.parked(pool))) do unpark(pool, string.match(place, ' (.*)$')) end
    ring_all(pool)
  end
  return true
end)

-- Jobs of the lane that come before a turn, beside those of its own tenant. Of equal turns the tenant with the smaller name is first. Beyond
-- `most` tenants the rest is estimated by these.
local function count_before(pool, lane, tenant, turn, most)
  local before = 0
  local turns = redis.call('ZRANGEBYSCORE', K.turns(pool, lane), '-inf', exactly(turn), 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #turns, 2 do
    local other, their = turns[i], tonumber(turns[i + 1])
    if other == FIRST then
      before = before + redis.call('ZCARD', K.backlog(pool, lane, FIRST))
    elseif other ~= tenant then
      local backlog = K.backlog(pool, lane, other)
      local head = tonumber(redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')[2])
      before = before + redis.call('ZCOUNT', backlog, '-inf', (other < tenant and '' or '(') .. exactly(head + turn - their))
    end
  end
  if #turns < 2 * most then return before end
  return math.floor(before * redis.call('ZCOUNT', K.turns(pool, lane), '-inf', exactly(turn)) / most)
end

-- How many jobs of the lane come before a queued one, or (no id) before a new one, and how many of them are its tenant's; nil: it has no turn.
local function place_of(pool, lane, tenant, id, most)
  local backlog, rank, begins = K.backlog(pool, lane, tenant), nil, nil
  if id then
    rank = redis.call('ZRANK', K.backlog(pool, lane, FIRST), id)
    if rank then return rank, 0 end
    rank, begins = redis.call('ZRANK', backlog, id), number(redis.call('ZSCORE', backlog, id))
    if not rank then return nil end
  else
    rank, begins = redis.call('ZCARD', backlog), number(redis.call('HGET', K.tags(pool, lane), tenant)) or 0
  end
  local head, turn = number(redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')[2]), nil
  if head then
    turn = turn_of(pool, lane, tenant) + begins - head
  else
    turn = math.max(begins, number(redis.call('HGET', K.pool(pool), 'v:' .. lane)) or 0)
  end
  return count_before(pool, lane, tenant, turn, most) + rank, rank
end

-- The same as sleeping_slots_of, of the worker that is started for what waits, as the pool's last one was; nil: that is not known.
local function coming_slots_of(pool)
  if not scales_from_zero(pool) then return nil, 0, nil end
  local all, bulk, ms = string.match(redis.call('HGET', K.pool(pool), 'replica') or '', '(%d+) (%d+) (%d+)')
  return number(all), number(bulk) or 0, number(ms)
end

-- Of how many running jobs an estimate reads when they began.
local SAMPLE = 8

-- For how many milliseconds a few jobs have run, of bulk or of the other lanes; chunks do not count, as in the mean runs.
local function elapsed_of(pool, lane)
  local workers, now, found = redis.call('HKEYS', K.slots(pool)), now_ms(), {}
  local each = math.ceil(SAMPLE / math.max(1, #workers))
  for i = 1, math.min(#workers, SAMPLE) do
    for _, id in ipairs(redis.call('SRANDMEMBER', K.worker_jobs(workers[i]), each)) do
      local j = read(K.job(id), {'started', 'lane', 'batch'})
      if j.started and not j.batch and (j.lane == 'bulk') == (lane == 'bulk') then found[#found + 1] = math.max(0, now - number(j.started)) end
    end
  end
  return found
end

define('look', function(a)
  local pool, lane, tenant, id = a.pool, a.lane, a.tenant, a.id
  if id then
    local s = read(K.job(id), {'state', 'pool', 'lane', 'tenant', 'leader'})
    if s.state ~= 'queued' then return {rank = 0} end -- an empty table would be a list
    pool, lane, tenant = s.pool, s.lane, s.tenant
    if s.leader then
      local l = read(K.job(s.leader), {'pool', 'lane'})
      id, pool, lane = s.leader, l.pool or pool, l.lane or lane
    end
  end
  local position, rank
  if a.most_tenants > 0 then position, rank = place_of(pool, lane, tenant, id, a.most_tenants) end
  local p = read(K.pool(pool), POOL)
  for _, name in ipairs(LANES) do
    if name == lane then break end
    position = position and position + (number(p['depth:' .. name]) or 0)
  end
  local runs = redis.call('HMGET', K.pool(pool), 'run', 'bulk_run')
  local slots, bulk_slots, leaving = slots_of(pool)
  local wake_ms
  if slots == 0 then slots, bulk_slots, wake_ms = sleeping_slots_of(pool) end
  -- Only for a job that waits already, which has a worker started: a new one must not be refused for the time of that.
  if id and not slots then slots, bulk_slots, wake_ms = coming_slots_of(pool) end
  local most, tenant_most = limit('max_active'), bound_of(tenant) or nil
  local active, tenant_active = number(p.active) or 0, number(redis.call('HGET', K.active(pool), tenant)) or 0
  local full = lane == 'bulk' or active >= math.min((slots or 0) + leaving, most or math.huge) or tenant_active >= (tenant_most or math.huge)
  return {position = position, rank = rank or 0, lane = lane, paused = p.paused and true or false, active = active,
    elapsed_ms = full and active > 0 and elapsed_of(pool, lane) or nil, bulk = number(p.bulk) or 0, slots = slots and slots + leaving or nil, bulk_slots = bulk_slots, run_ms = number(runs[1]), bulk_run_ms = number(runs[2]),
    tenant_active = tenant_active,
    tenant_bulk = number(redis.call('HGET', K.active_bulk(pool), tenant)) or 0, most = most, tenant_most = tenant_most, wake_ms = wake_ms}
end)

-- Unfinished jobs that are looked at for the first deadlines.
local MOST_DEADLINES = 500

define('nearest_deadlines', function(a)
  local wanted, left, found, now = {}, #a.places, {}, now_ms()
  for _, place in ipairs(a.places) do wanted[place] = true end
  local flat = redis.call('ZRANGE', K.deadlines(), 0, MOST_DEADLINES - 1, 'WITHSCORES')
  for i = 1, #flat, 2 do
    if left == 0 then break end
    local j = read(K.job(flat[i]), {'state', 'pool', 'lane'})
    local place = j.state == 'queued' and j.pool .. ' ' .. j.lane
    if place and wanted[place] then
      wanted[place], left = nil, left - 1
      found[#found + 1] = {j.pool, j.lane, tonumber(flat[i + 1]) - now}
    end
  end
  return found
end)

-- A job that ran is its worker's until the reaper finds that this one is gone.
define('adopt', function(a)
  local j = read(K.job(a.id), JOB)
  if not j.state then return false end
  if j.finished then
    redis.call('ZADD', K.ended(j.state), j.finished, a.id)
  elseif j.state == 'running' then
    redis.call('SADD', K.worker_jobs(j.worker), a.id)
    redis.call('ZADD', K.leases(), 'NX', 0, j.worker)
    redis.call('HINCRBY', K.pool(j.pool), 'active', 1)
    redis.call('HINCRBY', K.active(j.pool), j.tenant, 1)
    if j.lane == 'bulk' then
      redis.call('HINCRBY', K.pool(j.pool), 'bulk', 1)
      redis.call('HINCRBY', K.active_bulk(j.pool), j.tenant, 1)
    end
  elseif not redis.call('ZSCORE', K.delayed(), a.id) then
    enqueue(j.pool, j.lane, j.tenant, a.id, tonumber(j.cost))
  end
  redis.call('SADD', K.pools(), j.pool)
  return true
end)
