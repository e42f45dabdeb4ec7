-- New versions of models, and aliases as data. The record of a rollout (jobs/rollouts.py) is changed by whoever has read it last: `step`
-- counts its changes. One call has all effects of a change, so that api processes, workers and supervisors see either none or all.
local MOVED_AT_ONCE = 100

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
  local now = read(key, {'step', 'nonce'})
  local step = number(now.step) or 0
  if step ~= a.step then return step == a.step + 1 and now.nonce == a.nonce end -- the client library sent the call twice
  for name, value in pairs(a.fields) do
    if value == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, value) end
  end
  redis.call('HSET', key, 'step', exactly(a.step + 1), 'nonce', a.nonce)
  redis.call('SADD', K.pools(), a.pool)
  if a.held then redis.call('HSET', K.pool(a.held), 'held', 1) end
  if a.unheld then redis.call('HDEL', K.pool(a.unheld), 'held') end
  if a.heir then -- it has workers before it serves
    set_forward(a.heir, a.heir_of)
    follow_adapters(a.heir_of, a.heir)
  end
  if a.from_pool then
    follow_adapters(a.from_pool, a.to) -- they may have changed since it was started
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
  local lives = false
  each_worker(a.pool, function() lives = true end)
  if lives then return false end
  for _, lane in ipairs(LANES) do
    if redis.call('EXISTS', K.turns(a.pool, lane)) == 1 then return false end
    if (number(redis.call('HGET', K.pool(a.pool), 'attached:' .. lane)) or 0) > 0 then return false end
  end
  for _, field in ipairs(redis.call('HKEYS', K.models())) do
    if string.sub(field, 1, #a.pool + 1) == a.pool .. ' ' then redis.call('HDEL', K.models(), field) end
  end
  for name, record in pairs(declared(a.pool)) do drop_adapter(a.pool, name, record) end
  redis.call('DEL', K.adapters(a.pool))
  redis.call('SREM', K.pools(), a.pool)
  redis.call('DEL', K.means(a.pool), K.active(a.pool), K.active_bulk(a.pool), K.bell(a.pool), K.bulk_bell(a.pool))
  return true
end)

define('alias_set', function(a)
  if redis.call('HGET', K.aliases(), a.alias) == a.model then return 'same' end
  if NAMES.is_model(a.alias) then return 'model' end
  redis.call('HSET', K.aliases(), a.alias, a.model)
  audit(a, 'alias.set', 'alias ' .. a.alias, {model = a.model})
  return 'changed'
end)

define('alias_drop', function(a)
  local known = redis.call('HDEL', K.aliases(), a.alias) == 1
  if known then audit(a, 'alias.remove', 'alias ' .. a.alias) end
  return known
end)
