#!lua flags=allow-oom
-- Take the task that has waited longest: no coordinator has it, or the lease on it ran out.
-- ARGV: lease_ms coordinator
-- Returns {kind, batch, run, attempt, args}, or nil if there is none.
local now = now_ms()
for _, name in ipairs(redis.call('ZRANGEBYSCORE', K.tasks(), '-inf', now, 'LIMIT', 0, 10)) do
  local kind, batch = string.match(name, '(%S+) (%S+)')
  local task = K.task(kind, batch)
  local s = redis.call('HMGET', task, 'run', 'args')
  if s[1] then
    redis.call('ZADD', K.tasks(), now + tonumber(ARGV[1]), name)
    redis.call('HSET', task, 'coordinator', ARGV[2])
    return {kind, batch, s[1], redis.call('HINCRBY', task, 'attempt', 1), s[2]}
  end
  redis.call('ZREM', K.tasks(), name) -- its time was over
end
return nil
