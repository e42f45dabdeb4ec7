#!lua flags=allow-oom
-- One round of looking after what nobody looks after; any number of processes may do it.
-- ARGV: lease_ttl_ms grace_ms slack_ms limit retention_ms hold_gap_ms
-- Returns {requeued, failed, repushed, expired, retired, due}
local ttl, grace, slack, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local retention = tonumber(ARGV[5])
local now = now_ms()
local requeued, failed, repushed, expired, retired, due = 0, 0, 0, 0, 0, 0

-- When no round ran for a while, Redis itself was away and no worker could beat: give them one lease's time.
local r = redis.call('HMGET', K.reaper(), 'tick', 'hold')
if r[1] and now - tonumber(r[1]) > tonumber(ARGV[6]) then
  r[2] = now + ttl
  redis.call('HSET', K.reaper(), 'hold', r[2])
end
redis.call('HSET', K.reaper(), 'tick', now)

-- 1. Jobs of workers whose lease has ended. A lease of 0 was ended on purpose and is never held back.
local bound = (r[2] and tonumber(r[2]) > now) and 0 or now
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.workers(), '-inf', bound)) do
  for _, id in ipairs(redis.call('SRANDMEMBER', K.worker_jobs(worker), limit - requeued)) do
    local s = redis.call('HMGET', K.job(id), 'state', 'attempt', 'created', 'queue', 'stream', 'sinks', 'cancel', 'worker', 'max')
    leave_worker(id, worker)
    if s[1] == 'running' and s[8] == worker then
      if s[7] then
        end_job(id, 'running', s[7], now, retention, {})
      elseif redis.call('HINCRBY', K.job(id), 'losses', 1) >= tonumber(s[9]) then
        end_job(id, 'running', 'failed', now, retention, {status = 503,
          error = cjson.encode({code = 'worker_lost', message = 'every attempt was lost with its worker; attempts: ' .. s[2]})})
        failed = failed + 1
      else
        back_to_queue(id, {s[3], s[2], s[4], s[5], s[6]}, worker, 'worker_lost', now)
        requeued = requeued + 1
      end
    end
  end
  if redis.call('EXISTS', K.worker_jobs(worker)) == 0 then
    redis.call('ZREM', K.workers(), worker)
    redis.call('DEL', K.worker(worker), K.worker_cancels(worker))
  end
  if requeued >= limit then break end
end

-- 2. Jobs that are queued, but whose message is gone: older than what has been claimed from a queue that still has
-- messages, or than a grace where it has none.
for _, queue in ipairs(redis.call('SMEMBERS', K.queues())) do
  local before = now - grace
  if redis.call('LLEN', queue) > 0 then
    before = math.min(before, tonumber(redis.call('HGET', K.high_water(), queue) or 0) - slack)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.queued(queue), '-inf', before, 'LIMIT', 0, limit)) do
    redis.call('HSET', K.job(id), 'rq', 1, 'entered', now)
    redis.call('ZADD', K.queued(queue), now, id)
    push(id, queue, true)
    repushed = repushed + 1
  end
end

-- 3. Jobs whose next attempt was put off until now.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.delayed(), '-inf', now, 'LIMIT', 0, limit)) do
  redis.call('ZREM', K.delayed(), id)
  local s = redis.call('HMGET', K.job(id), 'state', 'queue')
  if s[1] == 'queued' then
    redis.call('HDEL', K.job(id), 'due')
    redis.call('HSET', K.job(id), 'entered', now)
    redis.call('ZADD', K.queued(s[2]), now, id)
    push(id, s[2], true)
    due = due + 1
  end
end

-- 4. Deadlines.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.deadlines(), '-inf', now, 'LIMIT', 0, limit)) do
  redis.call('ZREM', K.deadlines(), id)
  stop_job(id, 'expired', now, retention)
  expired = expired + 1
end

-- 5. Index entries of records whose time is over.
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', K.retire(), '-inf', now, 'LIMIT', 0, limit)) do
  local id, state, model = string.match(entry, '^(%S+) (%S+) (.*)$')
  redis.call('ZREM', K.by_state(state), id)
  redis.call('ZREM', K.by_model(model), id)
  redis.call('ZREM', K.jobs(), id)
  redis.call('ZREM', K.dead(), id)
  redis.call('ZREM', K.retire(), entry)
  redis.call('DEL', K.job(id), K.log(id))
  retired = retired + 1
end
return {requeued, failed, repushed, expired, retired, due}
