-- Pools that scale from zero, as data. ns:declared has pool -> JSON of jobs.declared.DeclaredPool.
local function declare(pool, record)
  redis.call('HSET', K.declared(), pool, record)
  redis.call('SADD', K.pools(), pool)
end

local function waiting_in(pool)
  local jobs = 0
  for _, lane in ipairs(LANES) do
    for _, count in ipairs(redis.call('HMGET', K.pool(pool), 'depth:' .. lane, 'attached:' .. lane)) do jobs = jobs + (number(count) or 0) end
  end
  return jobs
end

define('pool_declare', function(a)
  local records = NAMES.declarations()
  local before, record = records[a.pool], NAMES.declaration(a.record)
  if before == a.record then return {kind = 'same'} end
  local names, old = NAMES.of(record), NAMES.declaration(before)
  local taken = NAMES.taken_by_declared(names, a.pool, records) or NAMES.taken_otherwise(names, a.pool, a.force, old)
  if taken then
    taken.kind = 'name'
    return taken
  end
  local jobs = waiting_in(a.pool)
  if old and old.model ~= record.model and jobs > 0 and not a.force then return {kind = 'waiting', model = old.model, jobs = jobs} end
  declare(a.pool, a.record)
  audit(a, 'pool.declare', 'pool ' .. a.pool, {model = record.model})
  look('') -- a batch may wait for its model
  return {kind = 'changed'}
end)

define('pool_undeclare', function(a)
  local known = redis.call('HDEL', K.declared(), a.pool) == 1
  if known then audit(a, 'pool.undeclare', 'pool ' .. a.pool) end
  return known
end)

-- The settings' own declarations follow the settings. An operator's come before them, and so do all names that are in use.
define('pools_take_over', function(a)
  local changed, kept, taken, theirs, before, free = {}, {}, {}, {}, {}, {}
  for pool, text in pairs(NAMES.declarations()) do
    local old = NAMES.declaration(text)
    if old and old.from_settings then
      before[pool] = text
      redis.call('HDEL', K.declared(), pool)
    elseif old then
      theirs[pool] = text
    end
  end
  for pool, text in pairs(a.records) do
    local names = NAMES.of(NAMES.declaration(text))
    local other = NAMES.taken_by_declared(names, pool, theirs)
      or NAMES.taken_otherwise(names, pool, true, NAMES.declaration(before[pool]), a.records)
    if theirs[pool] then
      kept[#kept + 1] = pool
    elseif other then
      taken[#taken + 1] = {pool = pool, name = other.name, model = other.model, declared = other.pool}
    else
      free[pool] = text
    end
  end
  for pool in pairs(before) do
    if not free[pool] then changed[#changed + 1] = pool end
  end
  for pool, text in pairs(free) do
    declare(pool, text)
    if before[pool] ~= text then changed[#changed + 1] = pool end
  end
  if changed[1] then look('') end
  return {changed = changed, kept = kept, taken = taken}
end)
