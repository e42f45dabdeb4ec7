#!lua flags=allow-oom
-- Pause a pool: nothing more is let down to its workers, and what no worker has popped goes back. Or let it go on.
-- ARGV: pool paused('1'|'0')
-- Returns 1 where that changed anything, else 0.
local pool = ARGV[1]
if ARGV[2] == '1' then
  local changed = redis.call('SADD', K.paused(), pool)
  for _, lane in ipairs(LANES) do
    local queue = K.queue(pool, lane)
    for _, id in ipairs(redis.call('ZREVRANGE', K.window(queue), 0, -1)) do take_back(pool, lane, queue, id) end
  end
  return changed
end
local changed = redis.call('SREM', K.paused(), pool)
unpark(pool)
offer_all(pool)
return changed
