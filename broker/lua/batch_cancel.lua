#!lua flags=allow-oom
-- Ask for a batch's end: it cancels as soon as the rows that run have been stopped.
-- ARGV: id
-- Returns the status it is in now, or nil where there is no such batch.
local status = redis.call('HGET', K.batch(ARGV[1]), 'status')
if status == 'validating' or status == 'in_progress' then
  redis.call('HSET', K.batch(ARGV[1]), 'status', 'cancelling', 'cancelling_at', now_ms())
  ring(ARGV[1])
  return 'cancelling'
end
return status
