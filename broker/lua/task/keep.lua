#!lua flags=allow-oom
-- Prolong the lease on a task, or (lease 0) give the task back.
-- ARGV: kind batch run attempt lease_ms
-- Returns 1, or 0 if it is no longer this attempt's.
if not holds_task(K.task(ARGV[1], ARGV[2]), ARGV[3], ARGV[4]) then return 0 end
redis.call('ZADD', K.tasks(), now_ms() + tonumber(ARGV[5]), ARGV[1] .. ' ' .. ARGV[2])
if ARGV[5] == '0' then
  redis.call('HDEL', K.task(ARGV[1], ARGV[2]), 'taking')
  ring(ARGV[2])
end
return 1
