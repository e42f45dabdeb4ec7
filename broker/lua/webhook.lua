-- Webhook endpoints as data. Besides what 2_webhook.lua names, a record (K.webhook) has: description; secret, sealed, and after a rotation the
-- older one (secret2), which signs too until until2; why it is disabled (reason). ns:webhook:whs_<tenant> has the secret alone of a tenant's
-- endpoints of one object.
define('webhook_create', function(a)
  local key, now = K.webhook(a.id), now_ms()
  if redis.call('EXISTS', key) == 1 then return true end -- the client library sent the call twice
  if redis.call('ZCARD', K.webhooks_of(a.tenant)) >= a.most then return false end
  write(key, {tenant = a.tenant, url = a.url, events = a.events, description = a.description, secret = a.secret, state = 'active', created = now})
  redis.call('ZADD', K.webhooks(), exactly(now), a.id)
  redis.call('ZADD', K.webhooks_of(a.tenant), exactly(now), a.id)
  redis.call('HSET', K.limits(), 'webhooks', 1)
  audit(a, 'webhook.create', 'webhook ' .. a.id, {tenant = a.tenant, url = a.url})
  return true
end)

-- The tenant and the state of an endpoint that the caller may reach; else nothing.
local function webhook_of(a)
  local e = read(K.webhook(a.id), {'tenant', 'state', 'secret', 'until2'})
  return e.tenant and owns(a, e.tenant) and e or nil
end

-- fields: '' removes one.
define('webhook_set', function(a)
  local e, key, changed = webhook_of(a), K.webhook(a.id), {}
  if not e or not e.state then return false end
  for name, value in pairs(a.fields) do
    if (redis.call('HGET', key, name) or '') ~= value then
      changed[name] = value
      if value == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, value) end
    end
  end
  if changed.state == 'disabled' then redis.call('ZREM', K.webhooks_due(), a.id) end
  if changed.state == 'active' then
    redis.call('HDEL', key, 'reason', 'failing')
    if redis.call('XLEN', K.webhook_outbox(a.id)) > 0 then OUTBOX.wake(a.id) end
  end
  if next(changed) then
    changed.tenant = e.tenant
    audit(a, 'webhook.set', 'webhook ' .. a.id, changed)
  end
  return true
end)

-- What it had to deliver goes with it.
define('webhook_delete', function(a)
  local e = webhook_of(a)
  if not e then return false end
  redis.call('DEL', K.webhook(a.id), K.webhook_outbox(a.id), K.webhook_tries(a.id), K.webhook_dead(a.id), K.webhook_lease(a.id))
  redis.call('ZREM', K.webhooks_due(), a.id)
  redis.call('ZREM', K.webhooks_of(e.tenant), a.id)
  redis.call('ZREM', K.webhooks(), a.id)
  if redis.call('EXISTS', K.webhooks()) == 0 then redis.call('HDEL', K.limits(), 'webhooks') end
  audit(a, 'webhook.delete', 'webhook ' .. a.id, {tenant = e.tenant})
  return true
end)

define('webhook_rotate', function(a)
  local e, key, now = webhook_of(a), K.webhook(a.id), now_ms()
  if not e or not e.secret then return false end
  if e.secret == a.secret then return true end -- the client library sent the call twice
  redis.call('HDEL', key, 'secret2', 'until2')
  write(key, {secret = a.secret, secret2 = a.overlap_ms > 0 and e.secret or nil, until2 = a.overlap_ms > 0 and now + a.overlap_ms or nil})
  audit(a, 'webhook.rotate', 'webhook ' .. a.id, {tenant = e.tenant, overlap_ms = a.overlap_ms})
  return true
end)

-- Return a tenant's secret for endpoints of one object; it is made if there is none.
define('webhook_secret', function(a)
  local key = K.webhook(OF_TENANT .. a.tenant)
  if redis.call('HSETNX', key, 'secret', a.secret) == 1 then write(key, {tenant = a.tenant, created = now_ms()}) end
  return redis.call('HGET', key, 'secret')
end)

-- Put an event into an outbox because somebody asked for it. letter: the dead letter that this is.
define('webhook_put', function(a)
  local e = webhook_of(a)
  if not e or not e.state then return false end
  if a.letter and redis.call('XDEL', K.webhook_dead(a.id), a.letter) == 0 then return true end -- the client library sent the call twice
  if string.sub(a.id, 1, #OF_ONE) == OF_ONE then -- it rests since its delivery, and has its whole time again
    for _, key in ipairs({K.webhook(a.id), K.webhook_tries(a.id)}) do redis.call('PEXPIRE', key, OUTBOX.of_one_ms) end
  end
  OUTBOX.put(a.id, e.state, a.event, a.kind, a.object, a.at or now_ms())
  OUTBOX.outlive(a.id, K.webhook_outbox(a.id))
  audit_of_another(a, e.tenant, 'webhook.resend', 'webhook ' .. a.id, {event = a.event})
  return true
end)
