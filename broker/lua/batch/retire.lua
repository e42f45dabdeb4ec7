#!lua flags=allow-oom
-- Delete records and index entries of batches whose retention is over.
-- ARGV: limit
-- Returns their ids.
local gone = redis.call('ZRANGEBYSCORE', K.batches_retire(), '-inf', now_ms(), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(gone) do
  redis.call('ZREM', K.batches(), id)
  redis.call('ZREM', K.batches_retire(), id)
  redis.call('DEL', K.batch(id), K.batch_done(id), K.batch_open(id))
end
return gone
