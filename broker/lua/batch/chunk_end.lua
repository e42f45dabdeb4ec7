#!lua flags=allow-oom
-- A chunk's job ends: every row is committed ('done'), or a later job runs the rest ('idle').
-- ARGV: batch chunk job attempt 'done'|'idle'
-- Returns 1, or 0 if the chunk is no longer this attempt's.
local id, n = ARGV[1], ARGV[2]
if redis.call('HEXISTS', K.batch_done(id), n) == 1 then return 1 end
local entry = chunk_of(id, n, ARGV[3], ARGV[4])
if not entry then return 0 end
if ARGV[5] == 'done' then
  redis.call('HSET', K.batch_done(id), n, entry.ledger)
  redis.call('HDEL', K.batch_open(id), n)
else
  entry.job = ''
  redis.call('HSET', K.batch_open(id), n, cjson.encode(entry))
end
return 1
