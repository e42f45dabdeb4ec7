#!lua
-- Create a job's record and queue it: all or nothing.
-- ARGV: facts (a msgpack map, see JobStore._accept) body
-- Returns {'accepted'|'same', id, created, position, eta_ms, run_ms} | {'conflict', id} | {'full', depth, retry_ms} |
--   {'tenant_full', depth, retry_ms} | {'busy', active, retry_ms} | {'infeasible', estimate_ms, limit} | {'unfinished', id} | {'gone', id} |
--   {'late', now}. -1: not known.
local a = cmsgpack.unpack(ARGV[1])
local id, pool, lane, tenant = a.id, a.pool, a.lane, a.tenant
local queue = K.queue(pool, lane)
local stream = a.stream and '1' or '0'
local now = now_ms()

if a.idem then
  local known = redis.call('GET', K.idem(tenant, a.idem))
  if known then
    local old, old_digest = string.match(known, '(%S+) (%S+)')
    local created = redis.call('HGET', K.job(old), 'created')
    if created then
      if old_digest ~= a.digest then return {'conflict', old} end
      return {'same', old, tonumber(created), -1, -1, -1}
    end
  end
end
local created = redis.call('HGET', K.job(id), 'created')
if created then return {'accepted', id, tonumber(created), -1, -1, -1} end -- the client library sent the script twice
-- After a stall the server meets submissions that were sent long ago, and whose clients were told that they failed.
if a.not_after_ms and now > a.not_after_ms then return {'late', now} end

-- A job is retried once. A further retry is a retry of the job that retried it.
if a.retry_of then
  local old = redis.call('HMGET', K.job(a.retry_of), 'finished', 'retried_as')
  if not old[1] then return {redis.call('EXISTS', K.job(a.retry_of)) == 1 and 'unfinished' or 'gone', a.retry_of} end
  local since = old[2] and redis.call('HGET', K.job(old[2]), 'created')
  if since then return {'same', old[2], tonumber(since), -1, -1, -1} end
end
if not envelope() then return redis.error_reply('NOENVELOPE no process has published the Celery envelope') end

-- An identical request that is under way answers this one too, unless it is in a lower lane (or runs in bulk, which others overtake).
-- At most FOLLOWERS follow one job, as one script ends them all.
local FOLLOWERS = 1000
local leader, leads = a.coalesce and redis.call('GET', K.coalesce(tenant, a.coalesce)), nil
if leader then
  local s = redis.call('HMGET', K.job(leader), 'state', 'cancel', 'pool', 'lane')
  leads = s[1]
  local under_way = (leads == 'running' and not s[2] and (s[4] ~= 'bulk' or lane == 'bulk'))
    or (leads == 'queued' and rank_of(s[4]) <= rank_of(lane))
  if not under_way or s[3] ~= pool or redis.call('SCARD', K.followers(leader)) >= FOLLOWERS then leader = nil end
end

local position, rank, eta, run
if leader then
  position = position_of(pool, redis.call('HGET', K.job(leader), 'lane'), leader, tenant)
else
  -- How long until `count` of the waiting jobs have started; 0: nothing was measured yet.
  local function wait_for(count) return estimate_start(pool, lane, math.max(count - 1, 0)) or 0 end
  local interactive = lane ~= 'bulk' and not a.batch
  local depth = redis.call('ZCARD', K.queued(queue))
  -- A job that finds a free slot is still in the lane for a moment, and does not count as waiting.
  local function waits() return depth - (is_paused(pool) and 0 or free_slots(pool, lane) or 0) end
  if depth >= a.queue_max and waits() >= a.queue_max and not (a.reject and interactive) then
    return {'full', depth, wait_for(math.ceil(depth / 8))}
  end
  local waiting = tonumber(redis.call('HGET', K.waiting(pool), tenant) or 0)
  if a.tenant_queue_max and waiting >= a.tenant_queue_max then return {'tenant_full', waiting, wait_for(math.ceil(waiting / 8))} end
  if a.reject and interactive then
    local active, bulk = count_running(pool)
    for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.workers(), now, '+inf')) do -- a draining worker has no slots, but still has jobs
      local w = redis.call('HMGET', K.worker(worker), 'pool', 'cap')
      if w[1] == pool and w[2] == '0' then active = active - redis.call('SCARD', K.worker_jobs(worker)) end
    end
    active = math.max(0, active)
    for i = 1, #LANES - 1 do active = active + redis.call('ZCARD', K.queued(K.queue(pool, LANES[i]))) end
    local most = slots_for(pool, lane) or 0
    local room = most > 0 and fits(lane, most, active, math.min(bulk, active))
    if not room or is_paused(pool) or at_bound(pool, lane, tenant) then
      return {'busy', active, tonumber(redis.call('HGET', K.rate(pool), 'run') or 0) / math.max(active, 1)}
    end
  end
  position, rank = position_of_next(pool, lane, tenant)
  eta, run = estimate_start(pool, lane, position, tenant, rank)
  if a.feasible and eta then
    local done = eta + (run or 0)
    if a.queue_timeout_ms and eta > a.queue_timeout_ms then return {'infeasible', eta, 'queue_timeout_s'} end
    if a.expires_in_ms and done > a.expires_in_ms then return {'infeasible', done, 'expires_in_s'} end
  end
end

local job = K.job(id)
redis.call('HSET', job, 'v', a.v, 'id', id, 'state', 'queued', 'pool', pool, 'lane', lane, 'endpoint', a.endpoint, 'model', a.model,
  'tenant', tenant, 'stream', stream, 'meta', a.meta, 'created', now, 'attempt', 0, 'losses', 0, 'max', a.max_attempts, 'req', ARGV[2])
-- The process that submits a streamed job gets its events from the start; for any other job it gets the end alone.
if a.sink then redis.call('HSET', job, a.stream and 'sinks' or 'waiter', a.sink) end
if a.timeout_ms then redis.call('HSET', job, 'timeout', a.timeout_ms) end
if a.trace then redis.call('HSET', job, 'trace', a.trace) end
if a.affinity then redis.call('HSET', job, 'affinity', a.affinity) end
if a.batch then redis.call('HSET', job, 'batch', a.batch) end
if a.retry_of then
  redis.call('HSET', job, 'retry_of', a.retry_of)
  redis.call('HSET', K.job(a.retry_of), 'retried_as', id)
  redis.call('ZREM', K.dead(), a.retry_of)
end
local deadline = math.huge
if a.expires_in_ms then
  deadline = now + a.expires_in_ms
  redis.call('HSET', job, 'exp', deadline)
end
if a.queue_timeout_ms and not (leader and leads == 'running') then
  local start_by = now + a.queue_timeout_ms
  redis.call('HSET', job, 'qtimeout', a.queue_timeout_ms, 'qexp', start_by)
  deadline = math.min(deadline, start_by)
end
if deadline < math.huge then redis.call('ZADD', K.deadlines(), deadline, id) end
if a.idem then redis.call('SET', K.idem(tenant, a.idem), id .. ' ' .. a.digest, 'PX', a.retention_ms) end
redis.call('ZADD', K.jobs(), now, id)
redis.call('ZADD', K.by_state('queued'), now, id)
redis.call('ZADD', K.by_model(a.model), now, id)
if leader then
  redis.call('HSET', job, 'leader', leader)
  redis.call('SADD', K.followers(leader), id)
else
  if a.coalesce then
    redis.call('HSET', job, 'coalesce', a.coalesce)
    redis.call('SET', K.coalesce(tenant, a.coalesce), id)
  end
  enqueue(pool, lane, id, tenant, now_us(), now)
end
publish_state(id, stream, nil, '0-1', 'queued', 0)
return {'accepted', id, now, position or -1, eta or -1, run and math.floor(run) or -1}
