#!lua flags=allow-oom
-- End the leases of a coordinator that has ended, on batches and on tasks, so that another takes them up at once.
-- Its own lease is left: callers wait for its successor as long as that lasts.
-- ARGV: coordinator
-- Returns how many leases were ended.
local coordinator, now, ended = ARGV[1], now_ms(), 0
for _, batch in ipairs(redis.call('SMEMBERS', K.batches_active())) do
  if redis.call('GET', K.batch_lease(batch)) == coordinator then
    redis.call('DEL', K.batch_lease(batch))
    ring(batch)
    ended = ended + 1
  end
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', K.tasks(), '(' .. now, '+inf')) do
  local kind, batch = string.match(name, '(%S+) (%S+)')
  if redis.call('HGET', K.task(kind, batch), 'coordinator') == coordinator then
    redis.call('ZADD', K.tasks(), now, name)
    ring(batch)
    ended = ended + 1
  end
end
return ended
