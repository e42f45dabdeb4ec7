#!lua flags=allow-oom
-- Take a task that no coordinator has, or the lease on which ran out.
-- ARGV: kind batch taking lease_ms coordinator       taking: drawn for this call, so that its repetition is recognised
-- Returns {run, attempt, deaths, args}, or nil: another coordinator has it, or it is done.
local task, name, now = K.task(ARGV[1], ARGV[2]), ARGV[1] .. ' ' .. ARGV[2], now_ms()
local due = redis.call('ZSCORE', K.tasks(), name)
if not due then return nil end
local s = redis.call('HMGET', task, 'run', 'attempt', 'deaths', 'args', 'taking')
if not s[1] then -- its time was over
  redis.call('ZREM', K.tasks(), name)
  return nil
end
if s[5] == ARGV[3] then return {s[1], tonumber(s[2]), tonumber(s[3] or 0), s[4]} end -- the client library sent the script twice
if tonumber(due) > now then return nil end
redis.call('ZADD', K.tasks(), now + tonumber(ARGV[4]), name)
local deaths = s[5] and redis.call('HINCRBY', task, 'deaths', 1) or tonumber(s[3] or 0) -- who had it did not give it back
redis.call('HSET', task, 'taking', ARGV[3], 'coordinator', ARGV[5])
return {s[1], redis.call('HINCRBY', task, 'attempt', 1), deaths, s[4]}
