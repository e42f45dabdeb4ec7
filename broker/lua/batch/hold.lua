#!lua flags=allow-oom
-- Note why a batch cannot proceed (storage fails), or ('') that it can again. Ended batches stay as they are.
-- ARGV: id reason|''
-- Returns 1, or 0 if there is no such unfinished batch.
local batch = K.batch(ARGV[1])
local s = redis.call('HMGET', batch, 'status', 'ended')
if not s[1] or s[2] then return 0 end
if ARGV[2] == '' then redis.call('HDEL', batch, 'hold') else redis.call('HSET', batch, 'hold', ARGV[2]) end
return 1
