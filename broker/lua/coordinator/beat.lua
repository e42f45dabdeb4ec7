#!lua flags=allow-oom
-- Prolong a coordinator's lease, or (ttl 0) end it. Leases that ran out are forgotten.
-- ARGV: info ttl_ms
local key, ttl, now = K.coordinators(), tonumber(ARGV[2]), now_ms()
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
if ttl == 0 then return redis.call('ZREM', key, ARGV[1]) end
redis.call('ZADD', key, now + ttl, ARGV[1])
if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
return 1
