#!lua flags=allow-oom
-- Pause a pool: dispatch no more to its workers, and take back the messages that no worker has popped. Or resume it.
-- ARGV: pool paused('1'|'0')
-- Returns 1 if that changed anything, else 0.
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
dispatch_pool(pool)
return changed
