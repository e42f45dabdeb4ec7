-- New versions of models, and aliases as data. The record of a rollout (jobs/rollouts.py) is changed by whoever has read it last: `step`
-- counts its changes. One call has all effects of a change, so that api processes, workers and supervisors see either none or all.
local MOVED_AT_ONCE = 100

-- A new version has the LoRA adapters of the one that serves. Its workers load them; it is offered those that are declared.
local function inherit(from, to)
  for _, field in ipairs(redis.call('HKEYS', K.adapters(to))) do redis.call('HDEL', K.adapted(), to .. ' ' .. field) end
  redis.call('DEL', K.adapters(to))
  local flat = redis.call('HGETALL', K.adapters(from))
  for i = 1, #flat, 2 do
    local record, named = flat[i + 1], string.sub(flat[i], 1, 1) ~= ':'
    if named then
      record = cjson.decode(record)
      record.pool = to
      record = cjson.encode(record)
    end
    redis.call('HSET', K.adapters(to), flat[i], record)
    local known = named and redis.call('HGET', K.adapted(), from .. ' ' .. flat[i])
    if known then
      local offered = cjson.decode(known)
      redis.call('HSET', K.adapted(), to .. ' ' .. flat[i], cjson.encode({digest = offered.digest, tenant = offered.tenant}))
    end
  end
end

-- A pool stays paused, or open, whichever version serves. One that nobody forwarded so far may be paused on its own.
local function inherit_pause(from, to)
  if redis.call('HEXISTS', K.pool(from), 'paused') == 1 then
    set_paused(K.pool(to), true)
  elseif redis.call('HEXISTS', K.pool(to), 'forward') == 1 then
    set_paused(K.pool(to), false)
  end
end

define('rollout_step', function(a)
  local key = K.rollout(a.pool)
  if (number(redis.call('HGET', key, 'step')) or 0) ~= a.step then return false end
  for name, value in pairs(a.fields) do
    if value == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, value) end
  end
  redis.call('HSET', key, 'step', exactly(a.step + 1))
  redis.call('SADD', K.pools(), a.pool)
  if a.held then redis.call('HSET', K.pool(a.held), 'held', 1) end
  if a.unheld then redis.call('HDEL', K.pool(a.unheld), 'held') end
  if a.heir then -- it has workers before it serves
    set_forward(a.heir, a.heir_of)
    inherit(a.heir_of, a.heir)
  end
  if a.from_pool then
    inherit_pause(a.from_pool, a.to)
    set_forward(a.from_pool, a.to)
    move_on(a.from_pool, MOVED_AT_ONCE)
    look('') -- batches submit their next chunks
  end
  if a.what then audit(a, 'rollout.' .. a.what, 'pool ' .. a.pool, a.details) end
  return true
end)

-- A version that nobody starts any more.
define('pool_forget', function(a)
  local p = read(K.pool(a.pool), {'active', 'forward'})
  if not p.forward or (number(p.active) or 0) > 0 or redis.call('EXISTS', K.slots(a.pool)) == 1 then return false end
  for _, lane in ipairs(LANES) do
    if redis.call('EXISTS', K.turns(a.pool, lane)) == 1 then return false end
    if (number(redis.call('HGET', K.pool(a.pool), 'attached:' .. lane)) or 0) > 0 then return false end
  end
  for _, field in ipairs(redis.call('HKEYS', K.models())) do
    if string.sub(field, 1, #a.pool + 1) == a.pool .. ' ' then redis.call('HDEL', K.models(), field) end
  end
  for _, name in ipairs(redis.call('HKEYS', K.adapters(a.pool))) do redis.call('HDEL', K.adapted(), a.pool .. ' ' .. name) end
  redis.call('DEL', K.adapters(a.pool))
  redis.call('SREM', K.pools(), a.pool)
  redis.call('DEL', K.means(a.pool), K.active(a.pool), K.active_bulk(a.pool), K.bell(a.pool), K.bulk_bell(a.pool))
  return true
end)

define('alias_set', function(a)
  local changed = redis.call('HGET', K.aliases(), a.alias) ~= a.model
  if changed then
    redis.call('HSET', K.aliases(), a.alias, a.model)
    audit(a, 'alias.set', 'alias ' .. a.alias, {model = a.model})
  end
  return changed
end)

define('alias_drop', function(a)
  local known = redis.call('HDEL', K.aliases(), a.alias) == 1
  if known then audit(a, 'alias.remove', 'alias ' .. a.alias) end
  return known
end)
