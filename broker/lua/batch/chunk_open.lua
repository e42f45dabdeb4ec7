#!lua
-- Note that a chunk is about to be submitted as a job. Rows that an earlier job of it committed stay.
-- ARGV: batch token chunk job generation
-- Returns 1, or 0 if the lease is another's, the batch is not in progress or the chunk is done.
local id, n = ARGV[1], ARGV[3]
if redis.call('GET', K.batch_lease(id)) ~= ARGV[2] or redis.call('HGET', K.batch(id), 'status') ~= 'in_progress' then return 0 end
if redis.call('HEXISTS', K.batch_done(id), n) == 1 then return 0 end
local old = redis.call('HGET', K.batch_open(id), n)
local entry = old and cjson.decode(old) or {ledger = ''}
entry.job, entry.gen, entry.taken = ARGV[4], tonumber(ARGV[5]), nil
redis.call('HSET', K.batch_open(id), n, cjson.encode(entry))
if not old and tonumber(n) >= tonumber(redis.call('HGET', K.batch(id), 'next') or 0) then
  redis.call('HSET', K.batch(id), 'next', tonumber(n) + 1)
end
return 1
