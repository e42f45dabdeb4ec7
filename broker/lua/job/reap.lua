#!lua flags=allow-oom
-- One round of the reaper. Any number of processes may run it.
-- ARGV: lease_ttl_ms grace_ms step retention_ms usual_gap_ms (the gap between rounds on a busy machine) ageing_ms (0: none; used until an api
-- has stored its own)
-- Returns {requeued, failed, repushed, expired, retired, due, aged, ids of requeued, ids of failed}; at most NAMED ids of each
local NAMED = 20
local ttl, grace, step = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local retention, ageing = tonumber(ARGV[4]), limit('ageing_ms') or tonumber(ARGV[6])
local now = now_ms()
local requeued, failed, repushed, expired, retired, due, aged = 0, 0, 0, 0, 0, 0, 0
local requeued_ids, failed_ids = {}, {}

-- If no round ran for a while, Redis itself was away and no worker could send a heartbeat: each gets another lease's time, by its own
-- setting, which may differ from ours. 0 was set by bury and stays.
local tick = tonumber(redis.call('HGET', K.reaper(), 'tick') or now)
redis.call('HSET', K.reaper(), 'tick', now)
local gap, usual = now - tick, tonumber(ARGV[5])
if gap > usual / 4 then -- an interval, and its jitter
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.workers(), '(0', '+inf')) do
    local own = tonumber(redis.call('HGET', K.worker(worker), 'ttl') or ttl)
    if gap > math.max(own / 3, math.min(usual, own * 2 / 3)) then redis.call('ZADD', K.workers(), 'GT', now + own, worker) end
  end
end

-- 1. Jobs of workers whose lease has ended.
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.workers(), '-inf', now)) do
  for _, id in ipairs(redis.call('SRANDMEMBER', K.worker_jobs(worker), step - requeued)) do
    leave_worker(id, worker) -- first, so that a record that cannot be read costs one round, not all
    local s = redis.call('HMGET', K.job(id), 'state', 'attempt', 'created', 'pool', 'stream', 'sinks', 'cancel', 'worker', 'max',
      'lane', 'tenant')
    if s[1] == 'running' and s[8] == worker then
      if s[7] then
        end_job(id, 'running', s[7], now, retention, {})
        count_end(s[4], s[10], s[7], '')
      elseif redis.call('HINCRBY', K.job(id), 'losses', 1) >= tonumber(s[9]) then
        end_job(id, 'running', on_give_up.running, now, retention, {status = 503,
          error = cjson.encode({code = 'worker_lost', message = 'every attempt was lost with its worker; attempts: ' .. s[2]})})
        count_end(s[4], s[10], 'failed', 'worker_lost')
        failed = failed + 1
        if failed <= NAMED then failed_ids[failed] = id end
      else
        requeue(id, on_lose.running, {s[3], s[2], s[5], s[6], s[4], s[10], s[11]}, worker, 'worker_lost', now)
        requeued = requeued + 1
        if requeued <= NAMED then requeued_ids[requeued] = id end
      end
    end
  end
  if redis.call('EXISTS', K.worker_jobs(worker)) == 0 then
    local pool = redis.call('HGET', K.worker(worker), 'pool')
    redis.call('ZREM', K.workers(), worker)
    redis.call('DEL', K.worker(worker), K.worker_cancels(worker))
    if pool then count_slots(pool, now) end
  end
  if requeued >= step then break end
end

-- 2. Dispatched jobs whose message is gone: a worker died between the pop and the claim. Most jobs that look like this are just being
-- claimed, hence the grace.
for _, queue in ipairs(redis.call('SMEMBERS', K.queues())) do
  local dispatched = redis.call('ZRANGE', K.window(queue), 0, -1)
  local missing = {}
  if dispatched[1] then
    local there = {}
    for _, text in ipairs(redis.call('LRANGE', queue, 0, -1)) do there[text] = true end
    for i = #dispatched, 1, -1 do -- the first is pushed last, to the head
      local text = message(dispatched[i], queue)
      if text and not there[text] then
        local since = tonumber(redis.call('HGET', K.missing(queue), dispatched[i]) or now)
        if now - since > grace then
          redis.call('RPUSH', queue, text)
          repushed = repushed + 1
        else
          missing[#missing + 1] = dispatched[i]
          missing[#missing + 1] = since
        end
      end
    end
  end
  redis.call('DEL', K.missing(queue))
  if missing[1] then redis.call('HSET', K.missing(queue), unpack(missing)) end
end

-- 3. Jobs whose next attempt is due become the first of their tenant's backlog.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.delayed(), '-inf', now, 'LIMIT', 0, step)) do
  redis.call('ZREM', K.delayed(), id)
  local s = redis.call('HMGET', K.job(id), 'state', 'pool', 'lane', 'tenant')
  if s[1] == 'queued' then
    redis.call('HDEL', K.job(id), 'due')
    enqueue(s[2], s[3], id, s[4], 0, now)
    due = due + 1
  end
end

-- 4. Deadlines.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.deadlines(), '-inf', now, 'LIMIT', 0, step)) do
  redis.call('ZREM', K.deadlines(), id)
  stop_job(id, on_expire, now, retention)
  expired = expired + 1
end

-- 5. Records and index entries whose retention is over.
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', K.retire(), '-inf', now, 'LIMIT', 0, step)) do
  local id, state, model = string.match(entry, '^(%S+) (%S+) (.*)$')
  redis.call('ZREM', K.by_state(state), id)
  redis.call('ZREM', K.by_model(model), id)
  redis.call('ZREM', K.jobs(), id)
  redis.call('ZREM', K.dead(), id)
  redis.call('ZREM', K.retire(), entry)
  redis.call('DEL', K.job(id), K.log(id))
  retired = retired + 1
end

-- 6. Ageing: a job that has waited long moves up one lane, so that no lane starves.
local pools = {}
for _, queue in ipairs(redis.call('SMEMBERS', K.queues())) do
  local pool, lane = string.match(queue, '^[^.]+%.([^.]+)%.(.+)$')
  pools[pool] = true
  local above = ({normal = 'high', low = 'normal'})[lane]
  if above and ageing > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', K.queued(queue), '-inf', now - ageing, 'LIMIT', 0, step - aged)) do
      local j = redis.pcall('HMGET', K.job(id), 'tenant', 'created')
      if j[2] then -- else its record is lost
        dequeue(pool, lane, id, j[1], false)
        redis.call('HSET', K.job(id), 'lane', above)
        enqueue(pool, above, id, j[1], j[2] * 1000, now)
        aged = aged + 1
      end
    end
  end
end

-- 7. Dispatch what may be dispatched now and was not: limits have changed, or the envelope was missing.
for pool in pairs(pools) do
  if redis.call('EXISTS', K.admitted(pool)) == 0 then redis.call('DEL', K.admitted_bulk(pool)) end -- an older version does not maintain it
  unpark(pool)
  dispatch_pool(pool)
end
return {requeued, failed, repushed, expired, retired, due, aged, requeued_ids, failed_ids}
