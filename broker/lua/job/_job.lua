-- What becomes of a job: shared by the scripts that carry out its transitions.
local function move_index(id, created, from, to)
  redis.call('ZREM', K.by_state(from), id)
  redis.call('ZADD', K.by_state(to), created, id)
end

-- Count an end that is in no worker's metrics. code: of a failed job, else ''.
local function count_end(pool, lane, state, code)
  redis.call('HINCRBY', K.ended(), pool .. ' ' .. lane .. ' ' .. state .. ' ' .. code, 1)
end

-- End a job. f: the fields that change, beside state and finished. Nothing changes a record after this, but that a job
-- which repeats it leaves its name. A queued one has left its lane before.
local function end_one(id, from, to, now, retention, f)
  local job = K.job(id)
  local j = redis.call('HMGET', job, 'created', 'started', 'first', 'attempt', 'stream', 'sinks', 'worker', 'exp', 'model', 'waiter',
    'qexp', 'pool', 'tenant', 'coalesce', 'leader', 'lane')
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
    give_up_place(j[12], j[16], j[13])
  else
    count_end(j[12], j[16], to, f.error and cjson.decode(f.error).code or '')
  end
  if j[15] then redis.call('SREM', K.followers(j[15]), id) end
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
    publish(listeners, id, eid, head .. '\n' .. (f.result or ''))
  end
  return j[14], j[13]
end

-- Failures of this one job's limits and luck, which say nothing of the request.
local OWN_FAILURES = {timeout = true, worker_lost = true}

-- The same, with the jobs that follow this one (identical, deterministic, of the same tenant): they end as it did; where it ended
-- without saying anything of the request, one of them runs in its place.
local function end_job(id, from, to, now, retention, f)
  local sum, tenant = end_one(id, from, to, now, retention, f)
  if not sum then return end
  if redis.call('GET', K.coalesce(tenant, sum)) == id then redis.call('DEL', K.coalesce(tenant, sum)) end
  local followers = redis.call('SMEMBERS', K.followers(id))
  redis.call('DEL', K.followers(id))
  table.sort(followers)
  if to == 'succeeded' or (to == 'failed' and not (f.error and OWN_FAILURES[cjson.decode(f.error).code])) then
    for _, follower in ipairs(followers) do
      end_one(follower, 'queued', to, now, retention, {status = f.status, result = f.result, usage = f.usage, error = f.error})
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
  enter(h[1], h[2], heir, tenant, h[3] * 1000, now)
end

-- A job has started in time; the deadline of its whole life (exp) stays.
local function start_in_time(id, exp)
  redis.call('HDEL', K.job(id), 'qexp')
  if exp then redis.call('ZADD', K.deadlines(), exp, id) else redis.call('ZREM', K.deadlines(), id) end
end

-- Take a running job off its worker's books.
local function leave_worker(id, worker)
  redis.call('SREM', K.worker_jobs(worker), id)
  redis.call('HDEL', K.worker_cancels(worker), id)
end

-- running -> queued. j: created, attempt, stream, sinks, pool, lane, tenant of the record. delay: milliseconds to wait before it may be
-- let down again; nil or 0: it is the next.
local function back_to_queue(id, j, worker, reason, now, delay)
  local job = K.job(id)
  local hist = redis.call('HGET', job, 'hist')
  hist = hist and cjson.decode(hist) or {}
  hist[#hist + 1] = {attempt = tonumber(j[2]), worker = worker, reason = reason, ended_ms = now}
  redis.call('HSET', job, 'state', 'queued', 'hist', cjson.encode(hist))
  redis.call('HDEL', job, 'worker', 'started', 'first')
  move_index(id, j[1], 'running', 'queued')
  say_state(id, j[3], j[4], j[2] .. '-' .. SEQ_BACK, 'queued', tonumber(j[2]))
  if delay and delay > 0 then
    redis.call('HSET', job, 'due', now + delay)
    redis.call('ZADD', K.delayed(), now + delay, id)
    give_up_place(j[5], j[6], j[7])
  else
    enter_at_head(j[5], j[6], id, j[7], now, true)
  end
end

-- Cancel (why = 'cancelled') or expire (why = 'expired') a job in whatever state it is.
local function stop_job(id, why, now, retention)
  local s = redis.call('HMGET', K.job(id), 'state', 'worker', 'cancel', 'exp', 'pool', 'lane', 'tenant')
  if s[1] == 'queued' then
    leave(s[5], s[6], id, s[7], false)
    local in_queue = why == 'expired' and not (s[4] and tonumber(s[4]) <= now)
    end_job(id, 'queued', why, now, retention, {in_queue = in_queue and 1 or nil})
    return why
  end
  if s[1] == 'running' and not s[3] then
    redis.call('HSET', K.job(id), 'cancel', why)
    redis.call('HSET', K.worker_cancels(s[2]), id, why)
    redis.call('PUBLISH', K.ctl_channel(s[2]), cmsgpack.pack({id, why}))
  end
  return s[1]
end
