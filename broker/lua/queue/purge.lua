#!lua flags=allow-oom
-- Cancel the jobs that wait in a lane, including those between two attempts, up to a limit.
-- ARGV: pool lane limit retention_ms
-- Returns how many; fewer than limit: the lane is empty.
local pool, lane, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now, count = now_ms(), 0
local ids = redis.call('ZREVRANGE', K.queued(K.queue(pool, lane)), 0, most - 1) -- the last first, so that none is dispatched in vain
local from = 0
while #ids < most do
  local delayed = redis.call('ZRANGE', K.delayed(), from, from + most - 1)
  if not delayed[1] then break end
  from = from + #delayed
  for _, id in ipairs(delayed) do
    local s = redis.call('HMGET', K.job(id), 'pool', 'lane')
    if s[1] == pool and s[2] == lane and #ids < most then ids[#ids + 1] = id end
  end
end
for _, id in ipairs(ids) do
  if stop_job(id, on_cancel, now, tonumber(ARGV[4])) == on_cancel.queued then count = count + 1 end
end
return count
