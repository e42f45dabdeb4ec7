-- The coordinators' leases. Those that ran out are forgotten.
define('coordinator_beat', function(a)
  local key, now = K.coordinators(), now_ms()
  redis.call('ZREMRANGEBYSCORE', key, '-inf', exactly(now))
  if a.ttl_ms == 0 then return redis.call('ZREM', key, a.info) == 1 end
  redis.call('ZADD', key, exactly(now + a.ttl_ms), a.info)
  if redis.call('PTTL', key) < a.ttl_ms then redis.call('PEXPIRE', key, exactly(a.ttl_ms)) end
  return true
end)

-- Its own lease is left: callers wait for its successor as long as that lasts.
define('coordinator_bury', function(a)
  local now, ended = now_ms(), 0
  for _, batch in ipairs(redis.call('SMEMBERS', K.batches_active())) do
    if redis.call('GET', K.batch_lease(batch)) == a.coordinator then
      redis.call('DEL', K.batch_lease(batch))
      look(batch)
      ended = ended + 1
    end
  end
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', K.tasks(), '(' .. exactly(now), '+inf')) do
    local kind, batch = string.match(name, '(%S+) (%S+)')
    if redis.call('HGET', K.task(kind, batch), 'coordinator') == a.coordinator then
      redis.call('ZADD', K.tasks(), exactly(now), name)
      look(batch)
      ended = ended + 1
    end
  end
  for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', K.webhooks_due(), '(' .. exactly(now), '+inf')) do
    if redis.call('GET', K.webhook_lease(endpoint)) == a.coordinator then
      redis.call('DEL', K.webhook_lease(endpoint))
      redis.call('ZADD', K.webhooks_due(), exactly(now), endpoint)
      look(endpoint)
      ended = ended + 1
    end
  end
  return ended
end)
