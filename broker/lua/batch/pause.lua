#!lua flags=allow-oom
-- Pause a batch that has not ended (its running rows end, no more begin), or resume it.
-- ARGV: id '1'|'0'
-- Returns the status it is in now, or nil if there is no such batch.
local status = redis.call('HGET', K.batch(ARGV[1]), 'status')
if status == 'validating' or status == 'in_progress' then
  if ARGV[2] == '1' then redis.call('HSET', K.batch(ARGV[1]), 'paused', 1) else redis.call('HDEL', K.batch(ARGV[1]), 'paused') end
  ring(ARGV[1])
end
return status
