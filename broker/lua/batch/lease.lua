#!lua flags=allow-oom
-- Take, prolong or (ttl 0) give up the right to drive a batch.
-- ARGV: id token ttl_ms
-- Returns 1, or 0 if another process has it.
local key, token = K.batch_lease(ARGV[1]), ARGV[2]
local owner = redis.call('GET', key)
if owner and owner ~= token then return 0 end
if tonumber(ARGV[3]) > 0 then redis.call('SET', key, token, 'PX', ARGV[3]) else redis.call('DEL', key) end
return 1
