-- running -> queued: a worker gives a job back. A drain costs no attempt; what the engine did not survive is counted, and
-- as often as attempts are lost workers, so that a request that kills engines does not go round the fleet for ever.
-- ARGV: id attempt worker reason retention_ms engine_failure('1'|'0') code status
-- Returns the state the job is in now, or nil where it is not running with this attempt. A pending cancel ends it.
local id, attempt, worker = ARGV[1], ARGV[2], ARGV[3]
local retention = tonumber(ARGV[5])
local s = redis.call('HMGET', K.job(id), 'state', 'attempt', 'created', 'queue', 'stream', 'sinks', 'cancel', 'max', 'worker')
if s[1] == 'queued' and s[2] == attempt then return s[1] end -- the client library sent the script twice
if s[1] ~= 'running' or s[2] ~= attempt then return nil end
local now = now_ms()
leave_worker(id, worker)
if s[7] then
  end_job(id, 'running', s[7], now, retention, {})
  return s[7]
end
if ARGV[6] == '1' and redis.call('HINCRBY', K.job(id), 'losses', 1) >= tonumber(s[8]) then
  end_job(id, 'running', 'failed', now, retention, {status = ARGV[8],
    error = cjson.encode({code = ARGV[7], message = ARGV[4]})})
  return 'failed'
end
local failed = back_to_queue(id, {s[3], attempt, s[4], s[5], s[6]}, worker, ARGV[6] == '1' and ARGV[7] or ARGV[4], now)
if failed then return failed end
return 'queued'
