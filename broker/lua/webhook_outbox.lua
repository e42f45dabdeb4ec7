-- Delivery of webhooks. K.webhooks_due() has each endpoint with something to deliver, by when a coordinator may take it: whoever has it moves
-- that time ahead, and K.webhook_lease says who that is. After a failed try it is the time of the next one. Besides what 2_webhook.lua and
-- webhook.lua name, an endpoint's record has: failing, since when every try failed; n:<entry>, how often an entry of the outbox was tried.
local TRIES = 1000

local function fields_of(flat)
  local named = {}
  for i = 1, #flat, 2 do named[flat[i]] = flat[i + 1] end
  return named
end

local function has_outbox(a) return redis.call('GET', K.webhook_lease(a.id)) == a.coordinator end

local function hold_outbox(a)
  redis.call('ZADD', K.webhooks_due(), exactly(now_ms() + a.lease_ms), a.id)
  redis.call('SET', K.webhook_lease(a.id), a.coordinator, 'PX', exactly(a.lease_ms))
end

-- Give an outbox back. wait: milliseconds before it is due; nil: nothing is.
local function leave_outbox(id, wait)
  redis.call('DEL', K.webhook_lease(id))
  if not wait then
    OUTBOX.rest(id)
    return redis.call('ZREM', K.webhooks_due(), id)
  end
  redis.call('ZADD', K.webhooks_due(), exactly(now_ms() + wait), id)
  if wait == 0 then look(id) end
end

-- Read the first entries and prolong the lease; without any, or of an endpoint that is not active, give the outbox back.
local function read_outbox(a)
  local e = read(K.webhook(a.id), {'state', 'tenant', 'url'})
  local entries = e.state == 'active' and redis.call('XRANGE', K.webhook_outbox(a.id), '-', '+', 'COUNT', exactly(a.most)) or {}
  if #entries == 0 then
    leave_outbox(a.id)
    return nil
  end
  hold_outbox(a)
  local counters, found = {}, {}
  for i, entry in ipairs(entries) do counters[i] = 'n:' .. entry[1] end
  local tries = redis.call('HMGET', K.webhook(a.id), unpack(counters))
  for i, entry in ipairs(entries) do
    local f = fields_of(entry[2])
    found[i] = {entry[1], f.event, f.type, f.object, tonumber(f.at), tonumber(tries[i] or 0)}
  end
  return {tenant = e.tenant, url = e.url, entries = found}
end

define('webhook_take', function(a)
  local due = redis.call('ZSCORE', K.webhooks_due(), a.id)
  -- If it is not due, the client library may have sent the call twice.
  if not due or tonumber(due) > now_ms() and not has_outbox(a) then return nil end
  return read_outbox(a)
end)

define('webhook_next', function(a)
  return has_outbox(a) and read_outbox(a) or nil
end)

-- An endpoint failed for too long, or said that it is gone. Its outbox is kept. The tenant's other endpoints get an event, each time a new one.
local function disable_webhook(id, tenant, reason)
  write(K.webhook(id), {state = 'disabled', reason = reason})
  leave_outbox(id)
  local now, kind = now_ms(), 'webhook.disabled'
  for _, other in ipairs(redis.call('ZRANGE', K.webhooks_of(tenant), 0, -1)) do
    local e = read(K.webhook(other), {'state', 'events'})
    if other ~= id and e.state and OUTBOX.wants(e.events, kind) then
      OUTBOX.put(other, e.state, 'evt_' .. redis.sha1hex(id .. ' ' .. kind .. ' ' .. exactly(now)), kind, id, now)
    end
  end
end

define('webhook_tried', function(a)
  local key, box, counter = K.webhook(a.id), K.webhook_outbox(a.id), 'n:' .. a.entry
  local e, entry = read(key, {'state', 'tenant', 'failing', counter}), redis.call('XRANGE', box, a.entry, a.entry)[1]
  local held = has_outbox(a) and 'held' or 'lost'
  if held == 'held' and e.state ~= 'active' then -- somebody has disabled it
    leave_outbox(a.id)
    held = 'lost'
  end
  local tries = (number(e[counter]) or 0) + 1
  -- It is gone, or the client library sent the call twice, or another coordinator has tried it meanwhile.
  if not e.state or not entry or a.outcome ~= 'delivered' and tries ~= a.number then return held end
  redis.call('XADD', K.webhook_tries(a.id), 'MAXLEN', '~', TRIES, '*', 'n', tries, 'status', a.status or '', 'ms', exactly(a.took_ms),
    'error', a.error, 'answer', a.answer, unpack(entry[2]))
  OUTBOX.outlive(a.id, K.webhook_tries(a.id))
  if held == 'held' then hold_outbox(a) end
  if a.outcome == 'delivered' then
    redis.call('XDEL', box, a.entry)
    redis.call('HDEL', key, counter, 'failing')
    redis.call('HINCRBY', K.webhook_counts(), 'delivered', 1)
    if held ~= 'held' or redis.call('XLEN', box) > 0 then return held end
    leave_outbox(a.id)
    return 'empty'
  end
  redis.call('HINCRBY', K.webhook_counts(), 'failed', 1)
  if not e.failing then redis.call('HSET', key, 'failing', exactly(now_ms())) end
  if a.outcome == 'dead' then
    OUTBOX.bury(a.id, entry, 'failed', tries)
  else
    redis.call('HSET', key, counter, tries)
  end
  local too_long = now_ms() - (number(e.failing) or now_ms()) >= a.disable_after_ms
  if a.outcome ~= 'gone' and not too_long then return held end
  redis.call('HDEL', key, counter)
  disable_webhook(a.id, e.tenant, a.outcome == 'gone' and 'gone' or 'failing')
  return 'disabled'
end)

define('webhook_leave', function(a)
  if not has_outbox(a) then return false end
  leave_outbox(a.id, redis.call('XLEN', K.webhook_outbox(a.id)) > 0 and a.wait_ms or nil)
  return true
end)
