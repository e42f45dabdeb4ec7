#!lua
-- Parts of a chunk are in storage: count their rows, once.
-- ARGV: batch chunk job attempt writer last completed failed input_tokens output_tokens cached_tokens reasoning_tokens
--       (writer: the number under which this attempt's parts are kept; last: the number of the latest one)
-- Returns 'run' | 'paused', or 'gone' if the chunk is no longer this attempt's.
local id, n = ARGV[1], ARGV[2]
local entry = chunk_of(id, n, ARGV[3], ARGV[4])
if not entry then return 'gone' end
local head = '^(.-)(' .. ARGV[5] .. '):(%d+)$'
local before, _, last = string.match(entry.ledger, head)
if before and before ~= '' and string.sub(before, -1) ~= ' ' then before = nil end
if not before or tonumber(last) < tonumber(ARGV[6]) then
  if before then
    entry.ledger = before .. ARGV[5] .. ':' .. ARGV[6]
  else
    entry.ledger = entry.ledger .. (entry.ledger == '' and '' or ' ') .. ARGV[5] .. ':' .. ARGV[6]
  end
  redis.call('HSET', K.batch_open(id), n, cjson.encode(entry))
  count_rows(id, 7)
end
redis.call('HDEL', K.batch(id), 'hold')
return redis.call('HGET', K.batch(id), 'paused') and 'paused' or 'run'
