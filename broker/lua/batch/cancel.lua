#!lua flags=allow-oom
-- Cancel a batch: it ends as soon as its running rows have been stopped.
-- ARGV: id
-- Returns the status it is in now, or nil if there is no such batch.
local status = redis.call('HGET', K.batch(ARGV[1]), 'status')
local to = on_batch_cancel[status]
if to then
  redis.call('HSET', K.batch(ARGV[1]), 'status', to, to .. '_at', now_ms())
  ring(ARGV[1])
end
return to or status
