-- Pools that scale from zero, as data. ns:declared has pool -> JSON of jobs.declared.DeclaredPool.
local function declare(pool, record)
  redis.call('HSET', K.declared(), pool, record)
  redis.call('SADD', K.pools(), pool)
end

define('pool_declare', function(a)
  local changed = redis.call('HGET', K.declared(), a.pool) ~= a.record
  if changed then
    declare(a.pool, a.record)
    audit(a, 'pool.declare', 'pool ' .. a.pool, {model = a.model})
    look('') -- a batch may wait for its model
  end
  return changed
end)

define('pool_undeclare', function(a)
  local known = redis.call('HDEL', K.declared(), a.pool) == 1
  if known then audit(a, 'pool.undeclare', 'pool ' .. a.pool) end
  return known
end)

-- The settings' own declarations follow the settings; an operator's come before them.
define('pools_take_over', function(a)
  local changed, kept, flat = {}, {}, redis.call('HGETALL', K.declared())
  for i = 1, #flat, 2 do
    local pool = flat[i]
    local theirs = cjson.decode(flat[i + 1]).from_settings
    if a.records[pool] and not theirs then
      kept[#kept + 1] = pool
      a.records[pool] = nil
    elseif a.records[pool] == flat[i + 1] then
      a.records[pool] = nil
    elseif theirs and not a.records[pool] then
      redis.call('HDEL', K.declared(), pool)
      changed[#changed + 1] = pool
    end
  end
  for pool, record in pairs(a.records) do
    declare(pool, record)
    changed[#changed + 1] = pool
  end
  if changed[1] then look('') end
  return {changed = changed, kept = kept}
end)
