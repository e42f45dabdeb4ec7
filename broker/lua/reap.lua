-- The reaper: what time brings about.
local NAMED = 20

-- If no round ran for a while, Redis itself was away and no worker could send a heartbeat: each gets another lease's time, by its own
-- setting, which may differ from ours. 0 was set by bury and stays.
local function forgive(gap, a)
  if gap <= a.usual_gap_ms / 4 then return end -- an interval, and its jitter
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.leases(), '(0', '+inf')) do
    local own = number(redis.call('HGET', K.worker(worker), 'ttl')) or a.lease_ttl_ms
    if gap > math.max(own / 3, math.min(a.usual_gap_ms, own * 2 / 3)) then
      redis.call('ZADD', K.leases(), 'GT', exactly(now_ms() + own), worker)
    end
  end
end

-- Take one job from a worker whose lease has ended.
local function take_from_lost(id, worker, a, done)
  leave_worker(id, worker) -- first, so that a record that cannot be read costs one round, not all
  local j = read(K.job(id), JOB)
  if j.state ~= 'running' or j.worker ~= worker then return end
  local losses = redis.call('HINCRBY', K.job(id), 'losses', 1)
  if j.cancel then
    end_job(id, j, j.cancel, a.retention_ms, {})
    count_end(j, j.cancel, '')
  elseif losses >= cjson.decode(redis.call('HGET', K.job(id), 'facts')).max_attempts then
    end_job(id, j, ON.give_up.running, a.retention_ms, {status = 503,
      error = cjson.encode({code = 'worker_lost', message = 'every attempt was lost with its worker; attempts: ' .. j.attempt})})
    count_end(j, 'failed', 'worker_lost')
    done.failed = done.failed + 1
    if done.failed <= NAMED then done.failed_ids[done.failed] = id end
  else
    requeue(id, ON.lose.running, j, 'worker_lost')
    done.requeued = done.requeued + 1
    if done.requeued <= NAMED then done.requeued_ids[done.requeued] = id end
  end
end

local function take_from_lost_workers(a, done)
  local most = a.most
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.leases(), '-inf', exactly(now_ms()), 'LIMIT', 0, 100)) do
    local ids = redis.call('SRANDMEMBER', K.worker_jobs(worker), most)
    for _, id in ipairs(ids) do take_from_lost(id, worker, a, done) end
    most = most - #ids
    if redis.call('EXISTS', K.worker_jobs(worker)) == 0 then forget_worker(worker) end
    if most <= 0 then
      done.more = true
      return
    end
  end
end

-- Delete the records of jobs that ended in a state, their logs and their entries in the indexes.
local function forget_jobs(state, ids)
  local keys, by_tenant = {}, {}
  for _, id in ipairs(ids) do
    local j = read(K.job(id), {'tenant', 'batch'}, redis.pcall)
    if j.tenant and not j.batch then
      local theirs = by_tenant[j.tenant] or {}
      by_tenant[j.tenant] = theirs
      theirs[#theirs + 1] = id
    end
    keys[#keys + 1] = K.job(id)
    keys[#keys + 1] = K.log(id)
  end
  redis.call('UNLINK', unpack(keys))
  drop_objects(ids)
  for tenant, theirs in pairs(by_tenant) do
    redis.call('ZREM', K.jobs_of(tenant), unpack(theirs))
    redis.call('ZREM', K.dead_of(tenant), unpack(theirs))
    redis.call('ZREM', K.chats_of(tenant), unpack(theirs))
  end
  redis.call('ZREM', K.jobs(), unpack(ids))
  redis.call('ZREM', K.dead(), unpack(ids))
  redis.call('ZREM', K.ended(state), unpack(ids))
end

-- Delete an ended job now. Returns its state: one that has not ended stays. nil: no such job.
define('forget', function(a)
  local j = read(K.job(a.id), {'state', 'tenant', 'batch', 'finished'})
  if not j.state or j.batch or not owns_job(a, j) then return nil end
  if j.finished then
    forget_jobs(j.state, {a.id})
    audit_of_another(a, j.tenant, 'job.delete', 'job ' .. a.id, {state = j.state})
  end
  return j.state
end)

-- Records and index entries whose retention is over.
local function retire(a, done)
  for _, state in ipairs({'succeeded', 'failed', 'cancelled', 'expired'}) do
    local ids = redis.call('ZRANGEBYSCORE', K.ended(state), '-inf', exactly(now_ms() - a.retention_ms), 'LIMIT', 0, a.most)
    if ids[1] then
      forget_jobs(state, ids)
      done.retired = done.retired + #ids
      done.more = done.more or #ids == a.most
    end
  end
end

-- A job that has waited long moves up one lane, so that no lane starves. Each round looks at some tenants.
local ABOVE = {normal = 'high', low = 'normal'}
local TENANTS = 50

local function age(pool, lane, ageing, a, done)
  local key, cursor = K.pool(pool), 'aged:' .. lane
  local p = redis.call('HMGET', key, 'depth:' .. lane, cursor)
  if (number(p[1]) or 0) <= 0 then return end
  local from = number(p[2]) or 0
  local tenants = redis.call('ZRANGE', K.turns(pool, lane), from, from + TENANTS - 1)
  redis.call('HSET', key, cursor, #tenants == TENANTS and from + TENANTS or 0)
  for _, tenant in ipairs(tenants) do
    local backlog, at = K.backlog(pool, lane, tenant), 0
    while done.aged < a.most do
      local id = redis.call('ZRANGE', backlog, at, at)[1]
      if not id then break end
      local j = read(K.job(id), {'tenant', 'created', 'back', 'cost', 'leader', 'attempt', 'paid'}, redis.pcall)
      if j.created then
        if now_ms() - tonumber(j.back or j.created) <= ageing then break end
        dequeue(pool, lane, j.tenant, id, j.leader)
        redis.call('HSET', K.job(id), 'lane', ABOVE[lane], 'back', exactly(now_ms()))
        if tenant == FIRST then
          enqueue_first(pool, ABOVE[lane], id, j.created)
        else
          enqueue(pool, ABOVE[lane], j.tenant, id, unpaid(j))
        end
        done.aged = done.aged + 1
      else
        at = at + 1 -- its record is lost
      end
    end
  end
end

-- By the api's settings, which alone decide what is lost.
local function trim_audit()
  local age, most = rare_limit('audit_ms'), rare_limit('audit_most')
  if age then redis.call('XTRIM', K.audit(), 'MINID', '=', exactly(now_ms() - age)) end
  if most then redis.call('XTRIM', K.audit(), 'MAXLEN', '=', exactly(most)) end
end

define('reap', function(a)
  local now = now_ms()
  local tick = number(redis.call('HGET', K.reaper(), 'tick')) or now
  if now > tick and now - tick < a.interval_ms / 2 then return {ran = false} end -- another process's round was just before
  redis.call('HSET', K.reaper(), 'tick', exactly(now))
  local done = {ran = true, more = false, requeued = 0, failed = 0, expired = 0, retired = 0, due = 0, aged = 0, requeued_ids = {}, failed_ids = {}}
  forgive(now - tick, a)
  take_from_lost_workers(a, done)
  -- Jobs whose next attempt is due become the first of their lane.
  local due = redis.call('ZRANGEBYSCORE', K.delayed(), '-inf', exactly(now), 'LIMIT', 0, a.most)
  for _, id in ipairs(due) do
    redis.call('ZREM', K.delayed(), id)
    local j = read(K.job(id), {'state', 'pool', 'lane', 'created'})
    if j.state == 'queued' then
      redis.call('HDEL', K.job(id), 'due')
      bring_home(id, j)
      enqueue_first(j.pool, j.lane, id, j.created)
      done.due = done.due + 1
    end
  end
  local late = redis.call('ZRANGEBYSCORE', K.deadlines(), '-inf', exactly(now), 'LIMIT', 0, a.most)
  for _, id in ipairs(late) do
    redis.call('ZREM', K.deadlines(), id)
    stop_job(id, ON.expire, a.retention_ms)
    done.expired = done.expired + 1
  end
  done.more = done.more or #due == a.most or #late == a.most
  retire(a, done)
  trim_audit()
  local ageing = rare_limit('ageing_ms') or a.ageing_ms
  local left = a.most
  for _, pool in ipairs(redis.call('SMEMBERS', K.pools())) do
    left = left - move_on(pool, left)
    if ageing > 0 then
      for lane in pairs(ABOVE) do age(pool, lane, ageing, a, done) end
    end
  end
  done.more = done.more or left <= 0
  return done
end)
