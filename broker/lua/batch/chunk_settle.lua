#!lua flags=allow-oom
-- End a chunk whose remaining rows will never run: committed rows stay, and a last part holds the rows that never ran.
-- ARGV: batch token chunk ledger completed failed input_tokens output_tokens cached_tokens reasoning_tokens
-- Returns 1, or 0 if the lease is another's.
local id, n = ARGV[1], ARGV[3]
if redis.call('GET', K.batch_lease(id)) ~= ARGV[2] then return 0 end
if redis.call('HEXISTS', K.batch_done(id), n) == 1 then return 1 end -- the client library sent the script twice
redis.call('HSET', K.batch_done(id), n, ARGV[4])
redis.call('HDEL', K.batch_open(id), n)
count_rows(id, 5)
return 1
