#!lua flags=no-writes
-- A page of files or batches: by creation, and by id if that is equal.
-- ARGV: 'files'|'batches' purpose|'' (of files) after|'' (an id) made_ms (creation of after, if it has no record) count
--       newest_first('1'|'0')
-- Returns ids.
local all = ARGV[1] == 'files' and K.files() or K.batches()
local index = ARGV[2] == '' and all or K.files_by_purpose(ARGV[2])
local newest, first = ARGV[6] == '1', 0
local after = ARGV[3]
if after ~= '' then
  local before, there = redis.call('ZRANK', index, after), 1
  if not before then -- it was deleted, or has another purpose: count what was before its place
    local score = redis.call('ZSCORE', all, after) or redis.call('GET', K.file_was(after)) or ARGV[4]
    before, there = redis.call('ZCOUNT', index, '-inf', '(' .. score), 0
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, score, score)) do
      if id < after then before = before + 1 end
    end
  end
  first = newest and redis.call('ZCARD', index) - before or before + there
end
return redis.call(newest and 'ZREVRANGE' or 'ZRANGE', index, first, first + tonumber(ARGV[5]) - 1)
