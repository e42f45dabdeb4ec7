-- Transitions of a job that several functions carry out. j: the fields JOB of its record.
local JOB = {'state', 'pool', 'lane', 'tenant', 'created', 'attempt', 'cost', 'stream', 'batch', 'sinks', 'waiter', 'worker', 'started', 'first',
  'exp', 'qexp', 'coalesce', 'leader', 'cancel', 'finished', 'ended_by', 'paid', 'reserved', 'key', 'keep', 'conversation', 'taken', 'webhook'}

-- Count an end that no worker's metrics count. code: of a failed job, else ''.
local function count_end(j, state, code)
  redis.call('HINCRBY', K.uncounted(), j.pool .. ' ' .. j.lane .. ' ' .. state .. ' ' .. code, 1)
end

local function code_of(f) return f.error and cjson.decode(f.error).code or '' end

-- As `owns`, of a job: the fields tenant and batch of its record. Chunks are their batch's, and no tenant's.
local function owns_job(a, j) return not a.owner or not j.batch and owns(a, j.tenant) end

-- How a stored body begins that is a reference to an object in storage, see jobs/references.py.
local REFERENCE = '\2ref '

-- Note the keys of a job's bodies in storage; they were announced. keys: nil: there are none.
local function keep_objects(id, keys)
  if not keys then return end
  local before = redis.call('HGET', K.objects(), id)
  redis.call('HSET', K.objects(), id, (before and before .. ' ' or '') .. table.concat(keys, ' '))
  for _, key in ipairs(keys) do redis.call('ZREM', K.files_announced(), id .. ' ' .. key) end
end

-- Have the sweeper delete the bodies in storage of jobs whose records go.
local function drop_objects(ids)
  for i, keys in ipairs(redis.call('HMGET', K.objects(), unpack(ids))) do
    if keys then
      for key in string.gmatch(keys, '%S+') do redis.call('SADD', K.files_trash(), key) end
      redis.call('HDEL', K.objects(), ids[i])
    end
  end
end

-- End one job. f: the fields that change, besides state and finished. A queued job has left its place before. After this the record does
-- not change, except that a job that retries it writes its id there (retried_as).
local function end_one(id, j, to, retention, f, result)
  local job, now, keep = K.job(id), now_ms(), number(j.keep) or retention
  f.state, f.finished = to, now
  write(job, f)
  redis.call('PEXPIRE', job, exactly(keep + OUTLIVES_MS))
  redis.call('ZADD', K.ended(to), exactly(now + keep - retention), id) -- the reaper trims by this score
  if j.exp or j.qexp then redis.call('ZREM', K.deadlines(), id) end
  if to == 'failed' or to == 'expired' then
    redis.call('ZADD', K.dead(), exactly(now), id)
    if not j.batch then redis.call('ZADD', K.dead_of(j.tenant), exactly(now), id) end
  end
  if j.state == 'running' then
    release_place(j.pool, j.lane, j.tenant)
  else
    count_end(j, to, code_of(f))
  end
  if j.leader then redis.call('SREM', K.followers(j.leader), id) end
  count_job(id, j, to, f)
  if not j.batch and j.webhook ~= TO_NOBODY and (j.webhook or limit('webhooks')) then OUTBOX.job_ended(id, j, to) end
  if j.batch then look(j.batch) end
  if j.conversation then leave_conversation(id, j, to, retention, number(j.keep)) end
  local sinks = j.sinks
  if j.waiter and not (sinks and string.find(' ' .. sinks .. ' ', ' ' .. j.waiter .. ' ', 1, true)) then
    sinks = sinks and sinks .. ' ' .. j.waiter or j.waiter
  end
  if not j.stream and not sinks then return end
  local attempt = number(j.attempt) or 0
  local head = 'e' .. cjson.encode({state = to, status = f.status, attempt = attempt, created = number(j.created),
    started = number(j.started), first = number(f.first or j.first), finished = now, usage = f.usage, error = f.error,
    worker = j.worker, in_queue = f.in_queue and true or nil})
  local eid = attempt .. '-' .. SEQ_END
  if j.stream then
    redis.pcall('XADD', K.log(id), eid, 'p', head)
    redis.call('PEXPIRE', K.log(id), exactly(keep))
  end
  local here = result and string.sub(result, 1, #REFERENCE) ~= REFERENCE
  publish(sinks, id, eid, here and #head + #result < PUBLISHED and head .. '\n' .. result or head)
end

-- Failures that come from this job's own limits or its worker, so that an identical request need not fail.
local OWN_FAILURES = {timeout = true, worker_lost = true}

-- What a queued job's turn will cost; 0: it ran before, or paid when it went before all turns.
local function unpaid(j) return (j.attempt or j.paid) and 0 or number(j.cost) or 1 end

-- End a job, and its followers (identical, deterministic jobs of the same tenant) if its end comes from the request. They point to its
-- result. Else each runs in its own turn; those that wait for this one no longer do. spent: tokens that a running job used; nil: none.
local function end_job(id, j, to, retention, f, result, spent)
  end_one(id, j, to, retention, f, result)
  if j.reserved then settle_quota(j, spent or to == 'succeeded' and tonumber(j.reserved) or 0) end
  if j.state == 'running' and j.cost then charge(j.pool, j.lane, j.tenant, (spent or 0) - tonumber(j.cost)) end
  if not j.coalesce then return end
  local key = K.coalesce(j.tenant, j.coalesce)
  if redis.call('GET', key) == id then redis.call('DEL', key) end
  local followers = redis.call('SMEMBERS', K.followers(id))
  redis.call('DEL', K.followers(id))
  table.sort(followers, function(one, other) return one > other end) -- the last first, as each goes ahead of the others
  local shared = to == 'succeeded' and ON.share.queued or to == 'failed' and not OWN_FAILURES[code_of(f)] and ON.share_failure.queued
  for _, follower in ipairs(followers) do
    local k = read(K.job(follower), JOB)
    if k.state == 'queued' and shared then
      dequeue(k.pool, k.lane, k.tenant, follower, id)
      k.leader, k.incomplete = nil, j.incomplete
      end_one(follower, k, shared, retention, {status = f.status, usage = f.usage, error = f.error, result_of = id})
    elseif k.state == 'queued' then
      redis.call('HDEL', K.job(follower), 'leader')
      if not redis.call('ZSCORE', K.backlog(k.pool, k.lane, k.tenant), follower)
        and not redis.call('ZSCORE', K.backlog(k.pool, k.lane, FIRST), follower) then
        count_attached(k.pool, k.lane, k.tenant, -1)
        bring_home(follower, k)
        enqueue_ahead(k.pool, k.lane, k.tenant, follower, unpaid(k))
      end
    end
  end
end

-- A job has started in time: its queue time-out ends, its deadline (exp) stays.
local function start_in_time(id, exp)
  redis.call('HDEL', K.job(id), 'qexp')
  if exp then redis.call('ZADD', K.deadlines(), exp, id) else redis.call('ZREM', K.deadlines(), id) end
end

-- Remove a running job from its worker's jobs.
local function leave_worker(id, worker, cancelled)
  redis.call('SREM', K.worker_jobs(worker), id)
  if cancelled then redis.call('HDEL', K.worker_orders(worker), id) end
end

-- running -> to, which is queued. delay: milliseconds before its next attempt is due; nil or 0: it is the next.
local function requeue(id, to, j, reason, delay)
  local job, now = K.job(id), now_ms()
  local hist = redis.call('HGET', job, 'hist')
  hist = hist and cjson.decode(hist) or {}
  hist[#hist + 1] = {attempt = tonumber(j.attempt), worker = j.worker, reason = reason, ended_ms = now}
  redis.call('HSET', job, 'state', to, 'hist', cjson.encode(hist), 'back', exactly(now))
  redis.call('HDEL', job, 'worker', 'started', 'first')
  release_place(j.pool, j.lane, j.tenant)
  bring_home(id, j)
  publish_state(id, j.stream, j.sinks, j.attempt .. '-' .. SEQ_BACK, to, tonumber(j.attempt))
  if delay and delay > 0 then
    redis.call('HSET', job, 'due', exactly(now + delay))
    redis.call('ZADD', K.delayed(), exactly(now + delay), id)
  else
    enqueue_first(j.pool, j.lane, id, j.created)
  end
end

-- Cancel (event: ON.cancel) or expire (event: ON.expire) a job in whatever state it is. Returns its state: a running job ends when its
-- worker, which is told, has stopped it.
local function stop_job(id, event, retention)
  local j = read(K.job(id), JOB)
  local to = event[j.state]
  if j.state == 'queued' then
    dequeue(j.pool, j.lane, j.tenant, id, j.leader)
    local in_queue = event == ON.expire and not (j.exp and tonumber(j.exp) <= now_ms())
    end_job(id, j, to, retention, {in_queue = in_queue and 1 or nil})
    return to
  end
  if to and not j.cancel then
    redis.call('HSET', K.job(id), 'cancel', to)
    redis.call('HSET', K.worker_orders(j.worker), id, to)
    redis.call('PUBLISH', K.ctl_channel(j.worker), cmsgpack.pack({id, to}))
  end
  return j.state
end

define('cancel', function(a)
  local before = a.by or a.owner
  before = before and read(K.job(a.id), {'state', 'tenant', 'batch', 'cancel'})
  if before and not owns_job(a, before) then return nil end
  local state = stop_job(a.id, ON.cancel, a.retention_ms)
  if before and ON.cancel[before.state] and not before.cancel then
    audit_of_another(a, before.tenant, 'job.cancel', 'job ' .. a.id, {state = before.state})
  end
  return state
end)

-- The owner of a job that is kept for one fetch has its result. Without its request it cannot be retried.
define('drop_bodies', function(a)
  local j = read(K.job(a.id), {'tenant', 'batch', 'once', 'finished'})
  if not j.once or not j.finished or not owns_job(a, j) then return false end
  redis.call('HDEL', K.job(a.id), 'req', 'result', 'partial')
  redis.call('UNLINK', K.log(a.id))
  drop_objects({a.id})
  redis.call('ZREM', K.dead(), a.id)
  redis.call('ZREM', K.dead_of(j.tenant), a.id)
  return true
end)

-- The metadata in a job's facts stays as its client sent it; this one is shown in its place.
define('relabel', function(a)
  local j = read(K.job(a.id), {'state', 'tenant', 'batch'})
  if not j.state or j.batch or not owns_job(a, j) then return false end
  redis.call('HSET', K.job(a.id), 'labels', a.metadata)
  audit_of_another(a, j.tenant, 'job.relabel', 'job ' .. a.id)
  return true
end)

define('watch', function(a)
  local s = read(K.job(a.id), {'state', 'sinks', 'tenant', 'batch'})
  if not owns_job(a, s) then return nil end
  if s.state == 'queued' or s.state == 'running' then
    local sinks = s.sinks or ''
    if not string.find(' ' .. sinks .. ' ', ' ' .. a.sink .. ' ', 1, true) then
      redis.call('HSET', K.job(a.id), 'sinks', sinks == '' and a.sink or sinks .. ' ' .. a.sink)
    end
  end
  return s.state
end)

define('move', function(a)
  local j = read(K.job(a.id), JOB)
  if not owns_job(a, j) then return nil end
  local lane = a.lane or j.lane
  if j.state ~= 'queued' or lane == j.lane and not a.top then return j.state end
  local delayed = redis.call('ZSCORE', K.delayed(), a.id) -- its next attempt will be in the new lane
  if not delayed and dequeue(j.pool, j.lane, j.tenant, a.id) then
    if a.top then
      enqueue_first(j.pool, lane, a.id, nil, true)
      charge(j.pool, lane, j.tenant, unpaid(j))
      redis.call('HSET', K.job(a.id), 'paid', 1)
    else
      enqueue(j.pool, lane, j.tenant, a.id, unpaid(j))
    end
  elseif j.leader then
    count_attached(j.pool, j.lane, j.tenant, -1)
    count_attached(j.pool, lane, j.tenant, 1)
  end
  redis.call('HSET', K.job(a.id), 'lane', lane, 'back', exactly(now_ms()))
  audit_of_another(a, j.tenant, 'job.move', 'job ' .. a.id, {from = j.lane, to = lane, top = a.top})
  return 'queued'
end)
