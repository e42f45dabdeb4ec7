#!lua flags=allow-oom
-- queued -> running, for a worker whose lease is alive.
-- ARGV: id worker retention_ms claim (unique per call, so that a call sent twice is known) schema_version
-- Returns {'run', attempt, endpoint, stream, lane, model, body, timeout_ms|'', kills} | {'drop', reason}
local id, worker = ARGV[1], ARGV[2]
local now = now_ms()
local lease = redis.call('ZSCORE', K.workers(), worker)
if not lease or tonumber(lease) < now then return {'drop', 'fenced'} end
local job = K.job(id)
local s = redis.call('HMGET', job, 'state', 'queue', 'entered', 'rq', 'exp', 'created', 'stream', 'sinks', 'attempt', 'worker', 'qexp',
  'v', 'due')
if not s[1] then return {'drop', 'gone'} end
local function run(attempt)
  local r = redis.call('HMGET', job, 'endpoint', 'lane', 'model', 'req', 'timeout', 'kills')
  return {'run', attempt, r[1], s[7], r[2], r[3], r[4], r[5] or '', tonumber(r[6]) or 0}
end
if s[1] == 'running' and s[10] == worker and redis.call('HGET', job, 'claim') == ARGV[4] then
  return run(tonumber(s[9])) -- the client library sent the script twice
end
if s[1] ~= 'queued' then return {'drop', s[1]} end
if tonumber(s[12]) > tonumber(ARGV[5]) then return {'drop', 'newer'} end -- the reaper pushes it again, for a newer worker
if s[13] and tonumber(s[13]) > now then return {'drop', 'delayed'} end
leave_queue(id, s[2])
if not s[4] then redis.call('HSET', K.high_water(), s[2], s[3]) end
local too_late = s[5] and tonumber(s[5]) <= now
if too_late or (s[11] and tonumber(s[11]) <= now) then
  end_job(id, 'queued', 'expired', now, tonumber(ARGV[3]), {in_queue = not too_late and 1 or nil})
  return {'drop', 'expired'}
end
if s[11] then -- it has started in time; the deadline of its whole life stays
  redis.call('HDEL', job, 'qexp')
  if s[5] then redis.call('ZADD', K.deadlines(), s[5], id) else redis.call('ZREM', K.deadlines(), id) end
end
local attempt = redis.call('HINCRBY', job, 'attempt', 1)
redis.call('HSET', job, 'state', 'running', 'worker', worker, 'started', now, 'claim', ARGV[4])
redis.call('SADD', K.worker_jobs(worker), id)
move_index(id, s[6], 'queued', 'running')
say_state(id, s[7], s[8], attempt .. '-0', 'running', attempt, worker)
return run(attempt)
