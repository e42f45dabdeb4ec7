-- Shared by every script, after the key table K that keys.py renders. All times are the server's.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- The last sequence numbers of an attempt: its end, and its return to the queue.
local SEQ_END = '4294967295'
local SEQ_BACK = '4294967294'

-- Send one event to every api process that wants this job's events.
local function publish(sinks, id, eid, payload)
  if not sinks or sinks == '' then return end
  local message = cmsgpack.pack({id, eid, payload})
  for sink in string.gmatch(sinks, '%S+') do
    redis.call('PUBLISH', K.api_channel(sink), message)
  end
end

-- Log (streamed jobs only) and publish a change of state that is not an end.
local function say_state(id, stream, sinks, eid, state, attempt, worker)
  if stream ~= '1' and (not sinks or sinks == '') then return end
  local payload = 's' .. cjson.encode({state = state, attempt = attempt, worker = worker})
  if stream == '1' then redis.pcall('XADD', K.log(id), eid, 'p', payload) end
  publish(sinks, id, eid, payload)
end

-- Put a job's Celery message at the tail (or, for a job that had its turn before, the head) of its queue.
local function push(id, queue, at_head)
  local envelope = redis.call('GET', K.envelope())
  if not envelope then return redis.error_reply('NOENVELOPE no process has published the Celery envelope') end
  local message = string.gsub(string.gsub(envelope, '@ID@', id), '@QUEUE@', queue)
  redis.call(at_head and 'RPUSH' or 'LPUSH', queue, message)
end

local function move_index(id, created, from, to)
  redis.call('ZREM', K.by_state(from), id)
  redis.call('ZADD', K.by_state(to), created, id)
end

-- End a job. f: the fields that change, beside state and finished. Nothing changes a record after this, but that a job
-- which repeats it leaves its name.
local function end_job(id, from, to, now, retention, f)
  local job = K.job(id)
  local j = redis.call('HMGET', job, 'created', 'started', 'first', 'attempt', 'stream', 'sinks', 'worker', 'exp', 'model', 'waiter',
    'qexp')
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
end

-- Take a running job off its worker's books.
local function leave_worker(id, worker)
  redis.call('SREM', K.worker_jobs(worker), id)
  redis.call('HDEL', K.worker_cancels(worker), id)
end

local function leave_queue(id, queue)
  if redis.call('ZREM', K.queued(queue), id) == 0 then redis.call('ZREM', K.delayed(), id) end
end

-- running -> queued. j: created, attempt, queue, stream, sinks of the record. delay: milliseconds to wait before it is
-- pushed; nil or 0: at once.
local function back_to_queue(id, j, worker, reason, now, delay)
  local job = K.job(id)
  local hist = redis.call('HGET', job, 'hist')
  hist = hist and cjson.decode(hist) or {}
  hist[#hist + 1] = {attempt = tonumber(j[2]), worker = worker, reason = reason, ended_ms = now}
  redis.call('HSET', job, 'state', 'queued', 'rq', 1, 'entered', now, 'hist', cjson.encode(hist))
  redis.call('HDEL', job, 'worker', 'started', 'first')
  move_index(id, j[1], 'running', 'queued')
  say_state(id, j[4], j[5], j[2] .. '-' .. SEQ_BACK, 'queued', tonumber(j[2]))
  if delay and delay > 0 then
    redis.call('HSET', job, 'due', now + delay)
    redis.call('ZADD', K.delayed(), now + delay, id)
    return
  end
  redis.call('ZADD', K.queued(j[3]), now, id)
  return push(id, j[3], true)
end

-- Cancel (why = 'cancelled') or expire (why = 'expired') a job in whatever state it is.
local function stop_job(id, why, now, retention)
  local s = redis.call('HMGET', K.job(id), 'state', 'queue', 'worker', 'cancel', 'exp')
  if s[1] == 'queued' then
    leave_queue(id, s[2])
    local in_queue = why == 'expired' and not (s[5] and tonumber(s[5]) <= now)
    end_job(id, 'queued', why, now, retention, {in_queue = in_queue and 1 or nil})
    return why
  end
  if s[1] == 'running' and not s[4] then
    redis.call('HSET', K.job(id), 'cancel', why)
    redis.call('HSET', K.worker_cancels(s[3]), id, why)
    redis.call('PUBLISH', K.ctl_channel(s[3]), cmsgpack.pack({id, why}))
  end
  return s[1]
end
