#!lua flags=allow-oom
-- End the lease of a worker that has ended, so that the reaper need not wait for it.
-- ARGV: worker
local pool = redis.call('HGET', K.worker(ARGV[1]), 'pool')
if redis.call('EXISTS', K.worker_jobs(ARGV[1])) == 1 then
  redis.call('ZADD', K.workers(), 'XX', 0, ARGV[1])
else
  redis.call('ZREM', K.workers(), ARGV[1])
  redis.call('DEL', K.worker(ARGV[1]), K.worker_cancels(ARGV[1]))
end
if pool then count_slots(pool, now_ms()) end
return 1
