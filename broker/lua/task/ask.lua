#!lua
-- Ask the coordinators for a task, or join the callers of the same one that has no answer yet.
-- ARGV: kind batch sink args ttl_ms
-- Returns the run to wait for, or 0: no coordinator is alive, and nothing was written.
local kind, batch, sink, now = ARGV[1], ARGV[2], ARGV[3], now_ms()
if redis.call('ZCOUNT', K.coordinators(), '(' .. now, '+inf') == 0 then return 0 end
local task = K.task(kind, batch)
local s = redis.call('HMGET', task, 'run', 'answer', 'sinks')
local run = tonumber(s[1])
if run and not s[2] then
  if not string.find(' ' .. s[3] .. ' ', ' ' .. sink .. ' ', 1, true) then
    redis.call('HSET', task, 'sinks', s[3] .. ' ' .. sink)
  end
  return run
end
run = math.max(now, (run or 0) + 1)
redis.call('DEL', task)
redis.call('HSET', task, 'run', run, 'attempt', 0, 'args', ARGV[4], 'sinks', sink)
redis.call('PEXPIRE', task, ARGV[5])
redis.call('ZADD', K.tasks(), now, kind .. ' ' .. batch)
ring(batch)
return run
