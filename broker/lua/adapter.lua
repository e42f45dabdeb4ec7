-- LoRA adapters as data: what operators declare, and what workers say of it; see 2_adapter.lua.

local function offer(pool, name, adapter) redis.call('HSET', K.adapted(), pool .. ' ' .. name, cjson.encode(adapter)) end

-- Who else has the name: a model, an alias, a declaration, or other files in another pool.
local function taken(a)
  if redis.call('HEXISTS', K.aliases(), a.name) == 1 then return {kind = 'alias', pool = a.pool} end
  local flat = redis.call('HGETALL', K.models())
  for i = 1, #flat, 2 do
    local pool, name = string.match(flat[i], '^(%S+) (.*)$')
    if name == a.name then return {kind = 'model', pool = pool} end
    for _, alias in ipairs(cjson.decode(flat[i + 1]).aliases or {}) do
      if alias == a.name then return {kind = 'alias', pool = pool} end
    end
  end
  for pool, text in pairs(NAMES.declarations()) do
    local record = NAMES.declaration(text)
    if record and NAMES.of(record)[a.name] then return {kind = record.model == a.name and 'model' or 'alias', pool = pool} end
  end
  for _, pool in ipairs(redis.call('SMEMBERS', K.pools())) do
    local there = pool ~= a.pool and home_of(pool) ~= home_of(a.pool) and offered(pool, a.name).digest
    if there and there ~= a.digest then return {kind = 'other', pool = pool} end
  end
end

local function count(key)
  local names = 0
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 1) ~= ':' then names = names + 1 end
  end
  return names
end

-- An object that no record takes over is of no use.
local function unused(a, answer)
  redis.call('ZREM', K.files_announced(), a.announced .. ' ' .. a.key)
  redis.call('SADD', K.files_trash(), a.key)
  return answer
end

-- Whether a live worker of a pool says that it cannot load this version, and whether all do.
local function failures(pool, name, digest)
  local one, all = false, true
  each_worker(pool, function(worker)
    local text = redis.call('HGET', K.worker_adapters(worker), name)
    local said = text and cjson.decode(text)
    local failed = said and said.digest == digest and said.state == 'failed'
    one, all = one or failed, all and failed
  end)
  return one, all
end

define('adapter_add', function(a)
  local key, mark = K.adapters(a.pool), ':taken:' .. a.name
  local text = redis.call('HGET', key, a.name)
  local old = text and cjson.decode(text)
  if old and old.key == a.key then return {kind = 'added', pool = a.pool} end -- the client library sent the call twice
  if a.once and redis.call('HGET', key, mark) == a.source then return unused(a, {kind = 'skipped', pool = a.pool}) end
  local refusal = taken(a)
  if refusal then return unused(a, refusal) end
  if not old and count(key) >= a.most then return unused(a, {kind = 'full', pool = a.pool}) end
  if a.once then redis.call('HSET', key, mark, a.source) end
  if old and old.digest == a.digest and old.tenant == a.tenant then
    -- If a worker could not load it, its object may be what is wrong: the new one takes its place.
    local broken = offered(a.pool, a.name).broken or failures(a.pool, a.name, a.digest)
    if not broken then return unused(a, {kind = 'same', pool = a.pool}) end
  end
  local record = cjson.decode(a.record)
  record.created_ms, record.pinned = now_ms(), old and old.pinned or nil
  redis.call('HSET', key, a.name, cjson.encode(record))
  offer(a.pool, a.name, {digest = a.digest, tenant = a.tenant, ready = offered(a.pool, a.name).ready})
  redis.call('ZREM', K.files_announced(), a.announced .. ' ' .. a.key)
  redis.call('SREM', K.files_trash(), a.key)
  if old then trash(a.pool, a.name, old.key) end
  adapters_changed(a.pool)
  audit(a, old and 'adapter.replace' or 'adapter.add', 'adapter ' .. a.name, {pool = a.pool, source = a.source, digest = a.digest, tenant = a.tenant})
  return {kind = old and 'replaced' or 'added', pool = a.pool}
end)

define('adapter_remove', function(a)
  local key = K.adapters(a.pool)
  local text = redis.call('HGET', key, a.name)
  if not text then return false end
  local old = cjson.decode(text)
  drop_adapter(a.pool, a.name, old)
  adapters_changed(a.pool)
  audit(a, 'adapter.remove', 'adapter ' .. a.name, {pool = a.pool, digest = old.digest, tenant = old.tenant})
  return true
end)

define('adapter_pin', function(a)
  local key = K.adapters(a.pool)
  local text = redis.call('HGET', key, a.name)
  if not text then return false end
  local record = cjson.decode(text)
  if (record.pinned or false) == a.pinned then return true end
  record.pinned = a.pinned or nil
  redis.call('HSET', key, a.name, cjson.encode(record))
  adapters_changed(a.pool)
  audit(a, a.pinned and 'adapter.pin' or 'adapter.unpin', 'adapter ' .. a.name, {pool = a.pool, tenant = record.tenant})
  return true
end)

define('adapter_report', function(a)
  local key, known = K.worker_adapters(a.worker), offered(a.pool, a.name)
  if known.digest ~= a.digest then
    redis.call('HDEL', key, a.name)
    return false
  end
  redis.call('HSET', key, a.name, cjson.encode({digest = a.digest, state = a.state, reason = a.reason}))
  redis.call('PEXPIRE', key, math.max(1000, redis.call('PTTL', K.worker(a.worker))))
  local now = {digest = a.digest, tenant = known.tenant, ready = known.ready}
  if a.state ~= 'failed' then
    now.ready = true
  else
    local _, all = failures(a.pool, a.name, a.digest)
    now.broken = all and a.reason or known.broken
  end
  if now.ready ~= known.ready or now.broken ~= known.broken then offer(a.pool, a.name, now) end
  if now.ready and not known.ready then
    redis.call('HSETNX', K.served(), a.name, exactly(math.floor(now_ms() / 1000)))
    look('') -- batches may wait for it
  end
  return true
end)
