-- running -> queued: a worker gives a job back, without using up an attempt.
-- ARGV: id attempt worker reason retention_ms
-- Returns 1, or 0 where the job is not running with this attempt. A job with a pending cancel ends instead.
local id, attempt, worker = ARGV[1], ARGV[2], ARGV[3]
local s = redis.call('HMGET', K.job(id), 'state', 'attempt', 'created', 'queue', 'stream', 'sinks', 'cancel')
if s[1] == 'queued' and s[2] == attempt then return 1 end -- the client library sent the script twice
if s[1] ~= 'running' or s[2] ~= attempt then return 0 end
local now = now_ms()
leave_worker(id, worker)
if s[7] then
  end_job(id, 'running', s[7], now, tonumber(ARGV[5]), {})
  return 1
end
local failed = back_to_queue(id, {s[3], attempt, s[4], s[5], s[6]}, worker, ARGV[4], now)
if failed then return failed end
return 1
