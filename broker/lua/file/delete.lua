#!lua flags=allow-oom
-- Delete a file's record, and put its object into the trash, which the sweeper empties.
-- ARGV: id expired('1'|'0'; with 1 only if its time has passed)
-- Returns 'deleted' | 'gone' | 'busy' (a batch that has not ended reads it) | 'kept'
local id = ARGV[1]
local f = redis.call('HMGET', K.file(id), 'key', 'purpose', 'users', 'expires')
if not f[1] then
  redis.call('ZREM', K.files_expiry(), id)
  return 'gone'
end
if tonumber(f[3] or 0) > 0 then return 'busy' end
if ARGV[2] == '1' and not (f[4] and tonumber(f[4]) <= now_ms()) then return 'kept' end
redis.call('SADD', K.files_trash(), f[1])
redis.call('SET', K.file_was(id), redis.call('ZSCORE', K.files(), id) or 0, 'PX', 3600000)
redis.call('ZREM', K.files(), id)
redis.call('ZREM', K.files_by_purpose(f[2]), id)
redis.call('ZREM', K.files_expiry(), id)
redis.call('DEL', K.file(id))
return 'deleted'
