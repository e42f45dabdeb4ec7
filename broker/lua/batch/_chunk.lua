-- A chunk that was submitted as this job, which is running with this attempt; nil if it is not.
local function chunk_of(batch, n, job, attempt)
  local raw = redis.call('HGET', K.batch_open(batch), n)
  if not raw then return nil end
  local entry = cjson.decode(raw)
  local s = redis.call('HMGET', K.job(job), 'state', 'attempt')
  if entry.job ~= job or s[1] ~= 'running' or s[2] ~= attempt then return nil end
  return entry
end

-- Add the numbers from ARGV[first] on to a batch's counts.
local function count_rows(batch, first)
  for i, field in ipairs({'completed', 'failed', 'input_tokens', 'output_tokens', 'cached_tokens', 'reasoning_tokens'}) do
    local by = tonumber(ARGV[first + i - 1])
    if by and by ~= 0 then redis.call('HINCRBY', K.batch(batch), field, by) end
  end
end
