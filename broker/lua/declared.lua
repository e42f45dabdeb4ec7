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
  local names = NAMES.of(record)
  local taken = NAMES.taken_by_declared(names, a.pool, records) or NAMES.taken_otherwise(names, a.pool, a.force)
  if taken then
    taken.kind = 'name'
    return taken
  end
  local old, jobs = NAMES.declaration(before), waiting_in(a.pool)
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

-- The settings' own declarations follow the settings; an operator's come before them, and so do their names.
define('pools_take_over', function(a)
  local changed, kept, taken, theirs = {}, {}, {}, NAMES.declarations()
  for pool, text in pairs(theirs) do
    local old = NAMES.declaration(text)
    if not old or old.from_settings then theirs[pool] = nil end
  end
  for pool, record in pairs(a.records) do
    local other = NAMES.taken_by_declared(NAMES.of(NAMES.declaration(record)), pool, theirs)
    if theirs[pool] then
      kept[#kept + 1], a.records[pool] = pool, nil
    elseif other then
      taken[#taken + 1], a.records[pool] = {pool = pool, name = other.name, model = other.model, declared = other.pool}, nil
    end
  end
  for pool, text in pairs(NAMES.declarations()) do
    local old = NAMES.declaration(text)
    if a.records[pool] == text then
      a.records[pool] = nil
    elseif old and old.from_settings and not a.records[pool] then
      redis.call('HDEL', K.declared(), pool)
      changed[#changed + 1] = pool
    end
  end
  for pool, record in pairs(a.records) do
    declare(pool, record)
    changed[#changed + 1] = pool
  end
  if changed[1] then look('') end
  return {changed = changed, kept = kept, taken = taken}
end)
