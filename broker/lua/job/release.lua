#!lua flags=allow-oom
-- running -> queued: a worker gives a job back. A release ('back', as in a drain) does not count. A lost attempt counts: the attempt failed
-- and may succeed after a delay ('retry'), or the engine died under it ('kill'). A job under which the engine died max_kills times counts
-- as the cause and fails, so that it does not kill engine after engine.
-- ARGV: id attempt worker kind('back'|'retry'|'kill') reason code|'' status|'' result|'' delay_ms max_kills retention_ms
-- Returns the state the job is in now, or nil if it is not running with this attempt. A pending cancel ends it.
local id, attempt, worker, kind, reason, code = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local delay, retention = tonumber(ARGV[9]), tonumber(ARGV[11])
local s = redis.call('HMGET', K.job(id), 'state', 'attempt', 'created', 'pool', 'stream', 'sinks', 'cancel', 'max', 'exp',
  'finished_by', 'released_by', 'lane', 'tenant')
local me = worker .. ' ' .. attempt
if s[11] == me or s[10] == me then return s[1] end -- the client library sent the script twice
if s[1] ~= 'running' or s[2] ~= attempt then return nil end
local now = now_ms()
leave_worker(id, worker)
redis.call('HSET', K.job(id), 'released_by', me)
if s[7] then
  end_job(id, 'running', s[7], now, retention, {finished_by = me})
  return s[7]
end
if kind ~= 'back' then
  local lost = redis.call('HINCRBY', K.job(id), 'losses', 1)
  local f
  if kind == 'kill' and redis.call('HINCRBY', K.job(id), 'kills', 1) >= tonumber(ARGV[10]) then
    f = {status = 500, error = cjson.encode({code = 'poisoned', message = reason})}
  elseif lost >= tonumber(s[8]) or (s[9] and now + delay >= tonumber(s[9])) then
    f = {status = ARGV[7], error = cjson.encode({code = code, message = reason}), result = ARGV[8] ~= '' and ARGV[8] or nil}
  end
  if f then
    f.finished_by = me
    end_job(id, 'running', on_give_up.running, now, retention, f)
    return on_give_up.running
  end
end
local to = kind == 'back' and on_release.running or on_retry.running
requeue(id, to, {s[3], attempt, s[5], s[6], s[4], s[12], s[13]}, worker, kind == 'back' and reason or code, now, delay)
return to
