-- What the names of models mean. A request finds its model by its name, whatever the pool, so a name means one model: it is the model's own name,
-- an alias of its workers or of a declaration, or an alias that operators have set. Versions of one pool may differ: rollouts compare them.

local NAMES = {} -- one local for all: Lua allows 200 in a block

-- Whether jobs for both pools are queued in the same one.
function NAMES.same_home(one, other) return one == other or home_of(one) == home_of(other) end

-- Read the record of a pool that scales from zero; nil: it cannot be read, and counts for nothing.
function NAMES.declaration(text)
  local read_, record = pcall(cjson.decode, text or '')
  if read_ and type(record) == 'table' and type(record.model) == 'string' then return record end
end

-- The names of a declaration: name -> model.
function NAMES.of(record)
  local names = {[record.model] = record.model}
  for _, alias in ipairs(type(record.aliases) == 'table' and record.aliases or {}) do names[alias] = record.model end
  return names
end

-- A name of `names` (name -> model) that means another model in a declared pool that is no version of this one; nil: there is none.
-- records: pool -> text.
function NAMES.taken_by_declared(names, pool, records)
  for other, text in pairs(records) do
    local record = NAMES.declaration(text)
    for name, model in pairs(record and NAMES.of(record) or {}) do
      if names[name] and names[name] ~= model and not NAMES.same_home(other, pool) then return {name = name, model = model, pool = other} end
    end
  end
end

-- Part names (name -> model) into those that a pool, or a version of it, declares with the same meaning, and the others.
function NAMES.split(names, pool, records)
  local own, others = {}, {}
  for name, model in pairs(names) do others[name] = model end
  for other, text in pairs(records) do
    local record = NAMES.declaration(text)
    for name, model in pairs(record and NAMES.same_home(other, pool) and NAMES.of(record) or {}) do
      if names[name] == model then own[name], others[name] = model, nil end
    end
  end
  return own, others
end

-- The records of all pools that scale from zero, by pool.
function NAMES.declarations()
  local flat, records = redis.call('HGETALL', K.declared()), {}
  for i = 1, #flat, 2 do records[flat[i]] = flat[i + 1] end
  return records
end

-- Whether calls of a pool may be answered: it is declared, it has a live worker, or others are about to start.
function NAMES.is_open(pool)
  local open = redis.call('HEXISTS', K.declared(), pool) == 1 or redis.call('HEXISTS', K.pool(pool), 'held') == 1
  if not open then each_worker(pool, function() open = true end) end
  return open
end

-- The same as taken_by_declared, of what workers have registered, of LoRA adapters, and of operators' aliases, whose answer has no pool.
-- gone: it is a name of a pool that takes no calls; force: such names are not taken. before: the pool's declaration until now, which an
-- operator's alias may have overridden since. staying: pools that are about to be declared, so their adapters stay.
function NAMES.taken_otherwise(names, pool, force, before, staying)
  local function clash(name, model, other, adapter)
    if not names[name] or (names[name] == model and not adapter) or NAMES.same_home(other, pool) then return nil end
    local gone = not (NAMES.is_open(other) or (adapter and staying and staying[other]))
    if not (gone and force) then return {name = name, model = model, pool = other, gone = gone} end
  end
  local flat = redis.call('HGETALL', K.models())
  for i = 1, #flat, 2 do
    local other, model = string.match(flat[i], '^(%S+) (.*)$')
    local found = clash(model, model, other)
    for _, alias in ipairs(cjson.decode(flat[i + 1]).aliases or {}) do found = found or clash(alias, model, other) end
    if found then return found end
  end
  for _, field in ipairs(redis.call('HKEYS', K.adapted())) do
    local other, adapter = string.match(field, '^(%S+) (.*)$')
    local found = clash(adapter, adapter, other, true)
    if found then return found end
  end
  local had = before and NAMES.of(before) or {}
  for name, model in pairs(names) do
    local given = redis.call('HGET', K.aliases(), name)
    if given and given ~= model and had[name] ~= model then return {name = name, model = given} end
  end
end

-- Whether a model has this as its own name: one that workers registered, a LoRA adapter, or one that is declared.
function NAMES.is_model(name)
  for _, key in ipairs({K.models(), K.adapted()}) do
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if string.match(field, '^%S+ (.*)$') == name then return true end
    end
  end
  for _, text in pairs(NAMES.declarations()) do
    local record = NAMES.declaration(text)
    if record and record.model == name then return true end
  end
  return false
end

-- Whether another pool that takes calls has a model, or an adapter, with this as its own name. A pool whose jobs are queued in this one is
-- no other.
function NAMES.is_elsewhere(name, pool)
  for other, text in pairs(NAMES.declarations()) do
    local record = NAMES.declaration(text)
    if record and record.model == name and other ~= pool and home_of(other) ~= pool then return true end
  end
  for _, key in ipairs({K.models(), K.adapted()}) do
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local other, its = string.match(field, '^(%S+) (.*)$')
      if its == name and other ~= pool and home_of(other) ~= pool and NAMES.is_open(other) then return true end
    end
  end
  return false
end
