#!lua flags=allow-oom
-- Write a task's answer and publish it to the processes that wait for it.
-- ARGV: kind batch run attempt answer ttl_ms
-- Returns 1, or 0 where the task is no longer this attempt's, or has this answer already.
local kind, batch, run, answer = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local task = K.task(kind, batch)
if not holds_task(task, run, ARGV[4]) then return 0 end
redis.call('HSET', task, 'answer', answer)
redis.call('PEXPIRE', task, ARGV[6])
redis.call('ZREM', K.tasks(), kind .. ' ' .. batch)
publish(redis.call('HGET', task, 'sinks'), task, run, answer)
return 1
