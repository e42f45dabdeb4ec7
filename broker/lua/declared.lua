-- Pools that scale from zero, as data. ns:declared has pool -> JSON of jobs.declared.DeclaredPool.
local function declare(pool, record)
  redis.call('HSET', K.declared(), pool, record)
  redis.call('SADD', K.pools(), pool)
end

-- The jobs that wait in a pool for a worker, also those that run again later.
local function jobs_waiting_in(pool)
  local jobs = 0
  for _, lane in ipairs(LANES) do
    for _, count in ipairs(redis.call('HMGET', K.pool(pool), 'depth:' .. lane, 'attached:' .. lane)) do jobs = jobs + (number(count) or 0) end
  end
  for _, id in ipairs(redis.call('ZRANGE', K.delayed(), 0, -1)) do
    local last = redis.call('HGET', K.job(id), 'pool')
    if last and home_of(last) == pool then jobs = jobs + 1 end
  end
  return jobs
end

-- The rows, of batches that have not ended, which only this pool can run: for its model, or for an adapter of that. Most of them are in no
-- job yet. A batch that is not validated yet is checked against the models that there are then.
local function rows_waiting_for(pool, model)
  local only_here, rows = {}, 0
  for _, id in ipairs(redis.call('SMEMBERS', K.batches_active())) do
    local s = read(K.batch(id), {'status', 'closing', 'model', 'total', 'completed', 'failed'})
    if s.status == 'in_progress' and not s.closing then
      local name = s.model or ''
      if only_here[name] == nil then
        local here = name == model or redis.call('HEXISTS', K.adapted(), pool .. ' ' .. name) == 1
        only_here[name] = here and not NAMES.is_elsewhere(name, pool)
      end
      if only_here[name] then rows = rows + (number(s.total) or 0) - (number(s.completed) or 0) - (number(s.failed) or 0) end
    end
  end
  return rows
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
  if old and old.model ~= record.model and not a.force then
    local jobs, rows = jobs_waiting_in(a.pool), rows_waiting_for(a.pool, old.model)
    if jobs + rows > 0 then return {kind = 'waiting', model = old.model, jobs = jobs, rows = rows} end
  end
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
