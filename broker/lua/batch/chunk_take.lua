#!lua
-- A worker begins a chunk: the ledger becomes the parts of earlier attempts that storage has, and their uncounted rows are counted now.
-- Parts that an earlier attempt writes from now on are in no ledger.
-- ARGV: batch chunk job attempt ledger seen_ledger completed failed input_tokens output_tokens cached_tokens reasoning_tokens
-- Returns {'run'|'paused'} | {'done'} | {'gone'} | {'changed', ledger} (the ledger is no longer seen_ledger)
local id, n = ARGV[1], ARGV[2]
if redis.call('HEXISTS', K.batch_done(id), n) == 1 then return {'done'} end
local entry = chunk_of(id, n, ARGV[3], ARGV[4])
if not entry then return {'gone'} end
local paused = redis.call('HGET', K.batch(id), 'paused') and 'paused' or 'run'
if entry.taken == ARGV[3] .. ' ' .. ARGV[4] then return {paused} end -- the client library sent the script twice
if entry.ledger ~= ARGV[6] then return {'changed', entry.ledger} end
entry.ledger, entry.taken = ARGV[5], ARGV[3] .. ' ' .. ARGV[4]
redis.call('HSET', K.batch_open(id), n, cjson.encode(entry))
count_rows(id, 7)
ring(id)
return {paused}
