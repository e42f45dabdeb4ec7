#!lua flags=allow-oom
-- Cancel the jobs that wait in a lane, those between two attempts included; so many at most.
-- ARGV: pool lane limit retention_ms
-- Returns how many; fewer than limit: the lane is empty.
local pool, lane, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now, count = now_ms(), 0
local ids = redis.call('ZREVRANGE', K.queued(K.queue(pool, lane)), 0, limit - 1) -- the last first: nothing is let down in vain
local from = 0
while #ids < limit do
  local delayed = redis.call('ZRANGE', K.delayed(), from, from + limit - 1)
  if not delayed[1] then break end
  from = from + #delayed
  for _, id in ipairs(delayed) do
    local s = redis.call('HMGET', K.job(id), 'pool', 'lane')
    if s[1] == pool and s[2] == lane and #ids < limit then ids[#ids + 1] = id end
  end
end
for _, id in ipairs(ids) do
  if stop_job(id, 'cancelled', now, tonumber(ARGV[4])) == 'cancelled' then count = count + 1 end
end
return count
