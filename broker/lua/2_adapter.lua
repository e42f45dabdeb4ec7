-- LoRA adapters as data. ns:adapters:<pool> has name -> record, JSON of jobs.adapters.Adapter; ':version', which every change raises; and
-- ':taken:<name>' -> the source that was taken over from settings. No name begins with ':'. ns:adapted has '<pool> <name>' -> what the
-- api must know of it as a model, JSON of jobs.adapters.Offered; the rest it knows from the pool's own model.

local function offered(pool, name)
  local text = redis.call('HGET', K.adapted(), pool .. ' ' .. name)
  return text and cjson.decode(text) or {}
end

-- Call found with the incarnation of every live worker of a pool.
local function each_worker(pool, found)
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', K.leases(), '(' .. exactly(now_ms()), '+inf')) do
    if redis.call('HGET', K.worker(worker), 'pool') == pool then found(worker) end
  end
end

-- The version is a time, so that no number comes back if Redis was emptied. Workers learn it at once, and again with each heartbeat.
local function adapters_changed(pool)
  local key = K.adapters(pool)
  local version = exactly(math.max((number(redis.call('HGET', key, ':version')) or 0) + 1, now_ms()))
  redis.call('HSET', key, ':version', version)
  each_worker(pool, function(worker) redis.call('PUBLISH', K.ctl_channel(worker), cmsgpack.pack({'adapters', version})) end)
end

-- Have the sweeper delete an object, unless another pool has it: the next version of the model, or the one before.
local function trash(pool, name, key)
  for _, other in ipairs(redis.call('SMEMBERS', K.pools())) do
    local text = other ~= pool and redis.call('HGET', K.adapters(other), name)
    if text and cjson.decode(text).key == key then return end
  end
  redis.call('SADD', K.files_trash(), key)
end

-- What a pool's hash has: its records, and which sources were taken over, both by name.
local function declared(pool)
  local flat, records, taken = redis.call('HGETALL', K.adapters(pool)), {}, {}
  for i = 1, #flat, 2 do
    local name = string.match(flat[i], '^:taken:(.*)$')
    if name then
      taken[name] = flat[i + 1]
    elseif flat[i] ~= ':version' then
      records[flat[i]] = cjson.decode(flat[i + 1])
    end
  end
  return records, taken
end

-- Forget an adapter of a pool; its object goes with the last version of the model that has it.
local function drop_adapter(pool, name, record)
  redis.call('HDEL', K.adapters(pool), name)
  redis.call('HDEL', K.adapted(), pool .. ' ' .. name)
  trash(pool, name, record.key)
end

-- Give a version of a model the LoRA adapters of the one that serves. An adapter that the version took over from its own settings, and the
-- other never did, stays as it is.
local function follow_adapters(from, to)
  local theirs, their_taken = declared(from)
  local own, taken = declared(to)
  if not (next(theirs) or next(their_taken) or next(own)) then return end
  local function anew(name) return taken[name] and taken[name] ~= their_taken[name] end
  for name, record in pairs(own) do
    if not theirs[name] and not anew(name) then drop_adapter(to, name, record) end
  end
  for name, record in pairs(theirs) do
    if not anew(name) then
      local was, known = own[name] or {}, offered(to, name)
      record.pool = to
      redis.call('HSET', K.adapters(to), name, cjson.encode(record))
      local now = {digest = record.digest, tenant = record.tenant, ready = known.ready}
      if was.key == record.key then now.broken = known.broken end
      redis.call('HSET', K.adapted(), to .. ' ' .. name, cjson.encode(now))
      if was.key and was.key ~= record.key then trash(to, name, was.key) end
    end
  end
  for name, source in pairs(their_taken) do
    if not taken[name] then redis.call('HSET', K.adapters(to), ':taken:' .. name, source) end
  end
  adapters_changed(to)
end
