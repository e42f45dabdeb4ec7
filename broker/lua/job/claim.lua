#!lua flags=allow-oom
-- queued -> running, for a worker whose lease is alive.
-- ARGV: id worker retention_ms claim (unique per call, so that a call sent twice is recognised) schema_version
-- Returns {'run', attempt, endpoint, stream, lane, model, body, timeout_ms|'', kills, trace|'', waited_ms|-1, age_ms,
-- left_ms|'', tenant} | {'drop', reason}; age: since it was accepted, left: until its deadline
local id, worker = ARGV[1], ARGV[2]
local now = now_ms()
local job = K.job(id)
local s = redis.call('HMGET', job, 'state', 'pool', 'lane', 'tenant', 'exp', 'created', 'stream', 'sinks', 'attempt', 'worker', 'qexp',
  'v', 'due', 'affinity', 'leader', 'coalesce')
if not s[1] then return {'drop', 'gone'} end
local pool, lane, tenant = s[2], s[3], s[4]
local function run(attempt, waited)
  local r = redis.call('HMGET', job, 'endpoint', 'model', 'req', 'timeout', 'kills', 'trace')
  return {'run', attempt, r[1], s[7], lane, r[2], r[3], r[4] or '', tonumber(r[5]) or 0, r[6] or '', waited or -1,
    now - tonumber(s[6]), s[5] and tonumber(s[5]) - now or '', tenant}
end
if s[1] == 'running' and s[10] == worker and redis.call('HGET', job, 'claim') == ARGV[4] then
  return run(tonumber(s[9])) -- a repetition: the first answer was lost. Even if the lease has ended, the job is still this worker's
end
local lease = redis.call('ZSCORE', K.workers(), worker)
if not lease or tonumber(lease) < now then return {'drop', 'fenced'} end
local to = on_claim[s[1]]
if not to then return {'drop', s[1]} end
if tonumber(s[12]) > tonumber(ARGV[5]) then return {'drop', 'newer'} end -- the reaper pushes it again, for a newer worker
if s[13] and tonumber(s[13]) > now then return {'drop', 'delayed'} end
if s[15] then return {'drop', 'coalesced'} end
local too_late = s[5] and tonumber(s[5]) <= now
if too_late or (s[11] and tonumber(s[11]) <= now) then
  dequeue(pool, lane, id, tenant, false)
  end_job(id, s[1], on_expire[s[1]], now, tonumber(ARGV[3]), {in_queue = not too_late and 1 or nil})
  return {'drop', 'expired'}
end
if s[11] then start_in_time(id, s[5]) end
if s[16] then -- its followers have started with it
  for _, follower in ipairs(redis.call('SMEMBERS', K.followers(id))) do
    local f = redis.call('HMGET', K.job(follower), 'qexp', 'exp')
    if f[1] then start_in_time(follower, f[2]) end
  end
end
local attempt = redis.call('HINCRBY', job, 'attempt', 1)
redis.call('HSET', job, 'state', to, 'worker', worker, 'started', now, 'claim', ARGV[4])
redis.call('SADD', K.worker_jobs(worker), id)
if s[14] then
  local node = redis.call('HGET', K.worker(worker), 'node')
  if node then redis.call('SET', K.affinity(pool, s[14]), node, 'PX', 600000) end
end
move_index(id, s[6], s[1], to)
local entered = redis.call('ZSCORE', K.queued(K.queue(pool, lane)), id)
dequeue(pool, lane, id, tenant, true)
note_start(pool, lane, now)
publish_state(id, s[7], s[8], attempt .. '-0', to, attempt, worker)
return run(attempt, entered and now - tonumber(entered))
