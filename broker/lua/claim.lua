-- queued -> running, for a worker whose lease is alive.
-- ARGV: id worker retention_ms claim (unique per call, so that a call sent twice is known)
-- Returns {'run', attempt, endpoint, stream, lane, model, body} | {'drop', reason}
local id, worker = ARGV[1], ARGV[2]
local now = now_ms()
local lease = redis.call('ZSCORE', K.workers(), worker)
if not lease or tonumber(lease) < now then return {'drop', 'fenced'} end
local job = K.job(id)
local s = redis.call('HMGET', job, 'state', 'queue', 'entered', 'rq', 'exp', 'created', 'stream', 'sinks', 'attempt', 'worker')
if not s[1] then return {'drop', 'gone'} end
if s[1] == 'running' and s[10] == worker and redis.call('HGET', job, 'claim') == ARGV[4] then
  local r = redis.call('HMGET', job, 'endpoint', 'lane', 'model', 'req') -- the client library sent the script twice
  return {'run', tonumber(s[9]), r[1], s[7], r[2], r[3], r[4]}
end
if s[1] ~= 'queued' then return {'drop', s[1]} end
leave_queue(id, s[2])
if not s[4] then redis.call('HSET', K.high_water(), s[2], s[3]) end
if s[5] and tonumber(s[5]) <= now then
  end_job(id, 'queued', 'expired', now, tonumber(ARGV[3]), {})
  return {'drop', 'expired'}
end
local attempt = redis.call('HINCRBY', job, 'attempt', 1)
redis.call('HSET', job, 'state', 'running', 'worker', worker, 'started', now, 'claim', ARGV[4])
redis.call('SADD', K.worker_jobs(worker), id)
move_index(id, s[6], 'queued', 'running')
say_state(id, s[7], s[8], attempt .. '-0', 'running', attempt, worker)
local r = redis.call('HMGET', job, 'endpoint', 'lane', 'model', 'req')
return {'run', attempt, r[1], s[7], r[2], r[3], r[4]}
