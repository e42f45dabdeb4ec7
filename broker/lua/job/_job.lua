-- Transitions of a job that several scripts carry out.
local function move_index(id, created, from, to)
  redis.call('ZREM', K.by_state(from), id)
  redis.call('ZADD', K.by_state(to), created, id)
end

-- Count an end that no worker's metrics count. code: of a failed job, else ''.
local function count_end(pool, lane, state, code)
  redis.call('HINCRBY', K.ended(), pool .. ' ' .. lane .. ' ' .. state .. ' ' .. code, 1)
end

-- End one job. f: the fields that change, besides state and finished. A queued job has left its lane before. After this the record does
-- not change, except that a job that retries it writes its id there (retried_as).
local function end_one(id, from, to, now, retention, f)
  local job = K.job(id)
  local j = redis.call('HMGET', job, 'created', 'started', 'first', 'attempt', 'stream', 'sinks', 'worker', 'exp', 'model', 'waiter',
    'qexp', 'pool', 'tenant', 'coalesce', 'leader', 'lane', 'batch')
  f.state = to
  f.finished = now
  local flat = {}
  for name, value in pairs(f) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  redis.call('HSET', job, unpack(flat))
  redis.call('HDEL', job, 'sinks', 'waiter')
  redis.call('PEXPIRE', job, retention)
  redis.call('ZADD', K.retire(), now + retention, id .. ' ' .. to .. ' ' .. j[9])
  if j[8] or j[11] then redis.call('ZREM', K.deadlines(), id) end
  if to == 'failed' or to == 'expired' then redis.call('ZADD', K.dead(), now, id) end
  move_index(id, j[1], from, to)
  if from == 'running' then
    if to == 'succeeded' then note_run(j[12], tonumber(j[2]), now) end
    release_place(j[12], j[16], j[13])
  else
    count_end(j[12], j[16], to, f.error and cjson.decode(f.error).code or '')
  end
  if j[15] then redis.call('SREM', K.followers(j[15]), id) end
  if j[17] then ring(j[17]) end
  local listeners = j[6]
  if j[10] and not (listeners and string.find(' ' .. listeners .. ' ', ' ' .. j[10] .. ' ', 1, true)) then
    listeners = listeners and listeners .. ' ' .. j[10] or j[10]
  end
  if j[5] == '1' or listeners then
    local attempt = tonumber(j[4])
    local head = 'e' .. cjson.encode({state = to, status = f.status or cjson.null, attempt = attempt, created = tonumber(j[1]),
      started = tonumber(j[2]) or cjson.null, first = tonumber(f.first or j[3]) or cjson.null, finished = now,
      usage = f.usage or cjson.null, error = f.error or cjson.null, worker = j[7] or cjson.null, in_queue = f.in_queue and true or cjson.null})
    local eid = attempt .. '-' .. SEQ_END
    if j[5] == '1' then
      redis.pcall('XADD', K.log(id), eid, 'p', head)
      redis.call('PEXPIRE', K.log(id), retention)
    end
    local result = f.result or ''
    publish(listeners, id, eid, #head + #result < PUBLISHED and head .. '\n' .. result or head)
  end
  return j[14], j[13]
end

-- Failures that come from this job's own limits or its worker, so that an identical request need not fail.
local OWN_FAILURES = {timeout = true, worker_lost = true}

-- End a job and its followers (identical, deterministic jobs of the same tenant). They share its end if that comes from the request;
-- otherwise one of them runs in its place.
local function end_job(id, from, to, now, retention, f)
  local sum, tenant = end_one(id, from, to, now, retention, f)
  if not sum then return end
  if redis.call('GET', K.coalesce(tenant, sum)) == id then redis.call('DEL', K.coalesce(tenant, sum)) end
  local followers = redis.call('SMEMBERS', K.followers(id))
  redis.call('DEL', K.followers(id))
  table.sort(followers)
  local shared = to == 'succeeded' and on_share.queued
    or to == 'failed' and not (f.error and OWN_FAILURES[cjson.decode(f.error).code]) and on_share_failure.queued
  if shared then
    for _, follower in ipairs(followers) do
      end_one(follower, 'queued', shared, now, retention, {status = f.status, result = f.result, usage = f.usage, error = f.error})
    end
    return
  end
  local heir = followers[1]
  if not heir then return end
  redis.call('SET', K.coalesce(tenant, sum), heir)
  redis.call('HDEL', K.job(heir), 'leader')
  redis.call('HSET', K.job(heir), 'coalesce', sum)
  for i = 2, #followers do
    redis.call('HSET', K.job(followers[i]), 'leader', heir)
    redis.call('SADD', K.followers(heir), followers[i])
  end
  local h = redis.call('HMGET', K.job(heir), 'pool', 'lane', 'created')
  enqueue(h[1], h[2], heir, tenant, h[3] * 1000, now)
end

-- A job has started in time: its queue time-out ends, its deadline (exp) stays.
local function start_in_time(id, exp)
  redis.call('HDEL', K.job(id), 'qexp')
  if exp then redis.call('ZADD', K.deadlines(), exp, id) else redis.call('ZREM', K.deadlines(), id) end
end

-- Remove a running job from its worker's jobs.
local function leave_worker(id, worker)
  redis.call('SREM', K.worker_jobs(worker), id)
  redis.call('HDEL', K.worker_cancels(worker), id)
end

-- running -> to, which is queued. j: created, attempt, stream, sinks, pool, lane, tenant of the record. delay: milliseconds before it may
-- be dispatched again; nil or 0: it is the next.
local function requeue(id, to, j, worker, reason, now, delay)
  local job = K.job(id)
  local hist = redis.call('HGET', job, 'hist')
  hist = hist and cjson.decode(hist) or {}
  hist[#hist + 1] = {attempt = tonumber(j[2]), worker = worker, reason = reason, ended_ms = now}
  redis.call('HSET', job, 'state', to, 'hist', cjson.encode(hist))
  redis.call('HDEL', job, 'worker', 'started', 'first')
  move_index(id, j[1], 'running', to)
  publish_state(id, j[3], j[4], j[2] .. '-' .. SEQ_BACK, to, tonumber(j[2]))
  if delay and delay > 0 then
    redis.call('HSET', job, 'due', now + delay)
    redis.call('ZADD', K.delayed(), now + delay, id)
    release_place(j[5], j[6], j[7])
  else
    enqueue_first(j[5], j[6], id, j[7], now, true)
  end
end

-- Cancel (event: on_cancel) or expire (event: on_expire) a job in whatever state it is. Returns its state: a running job ends when its
-- worker, which is told, has stopped it.
local function stop_job(id, event, now, retention)
  local s = redis.call('HMGET', K.job(id), 'state', 'worker', 'cancel', 'exp', 'pool', 'lane', 'tenant')
  local to = event[s[1]]
  if s[1] == 'queued' then
    dequeue(s[5], s[6], id, s[7], false)
    local in_queue = event == on_expire and not (s[4] and tonumber(s[4]) <= now)
    end_job(id, 'queued', to, now, retention, {in_queue = in_queue and 1 or nil})
    return to
  end
  if to and not s[3] then
    redis.call('HSET', K.job(id), 'cancel', to)
    redis.call('HSET', K.worker_cancels(s[2]), id, to)
    redis.call('PUBLISH', K.ctl_channel(s[2]), cmsgpack.pack({id, to}))
  end
  return s[1]
end
