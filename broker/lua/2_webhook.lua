-- Outboxes of webhooks: the script that ends an object writes its events there, for the coordinators to deliver in order. An endpoint's record
-- (K.webhook): tenant, url, events (words: types, 'job.*', '*'), state (active, disabled), created; see webhook.lua.
local OUTBOX = {most = 100000, dead = 10000, of_one_ms = 172800000, rests_ms = 600000}

-- The endpoint of one object lasts two days, and so does what it has.
function OUTBOX.outlive(id, key)
  local left = redis.call('PTTL', K.webhook(id))
  if left > 0 then redis.call('PEXPIRE', key, exactly(left)) end
end

-- Nothing more is to be delivered. The endpoint of one object then goes soon, as there may be one for each job.
function OUTBOX.rest(id)
  if string.sub(id, 1, #OF_ONE) ~= OF_ONE or redis.call('XLEN', K.webhook_outbox(id)) + redis.call('XLEN', K.webhook_dead(id)) > 0 then return end
  for _, key in ipairs({K.webhook(id), K.webhook_outbox(id), K.webhook_tries(id)}) do redis.call('PEXPIRE', key, OUTBOX.rests_ms) end
end

-- Move an entry of an outbox ({id, fields}, as XRANGE answers) to the dead letters. why: a word; tries: how often it was sent.
function OUTBOX.bury(id, entry, why, tries)
  redis.call('XADD', K.webhook_dead(id), 'MAXLEN', '~', OUTBOX.dead, '*', 'why', why, 'tries', tries, unpack(entry[2]))
  redis.call('XDEL', K.webhook_outbox(id), entry[1])
  redis.call('HDEL', K.webhook(id), 'n:' .. entry[1]) -- see webhook_outbox.lua
  redis.call('HINCRBY', K.webhook_counts(), 'dead:' .. why, 1)
  OUTBOX.outlive(id, K.webhook_dead(id))
end

-- Have what is in an outbox delivered, unless its time is known: a failed try holds what follows.
function OUTBOX.wake(id)
  if redis.call('ZADD', K.webhooks_due(), 'NX', exactly(now_ms()), id) == 1 then look(id) end
end

-- Add an event to an endpoint's outbox. state: the endpoint's. A full outbox gives up its oldest event.
function OUTBOX.put(id, state, event, kind, object, at)
  local box = K.webhook_outbox(id)
  redis.call('XADD', box, '*', 'event', event, 'type', kind, 'object', object, 'at', exactly(at))
  if redis.call('XLEN', box) > OUTBOX.most then OUTBOX.bury(id, redis.call('XRANGE', box, '-', '+', 'COUNT', 1)[1], 'overflow', 0) end
  if state == 'active' then OUTBOX.wake(id) end
end

-- Whether a subscription includes a type.
function OUTBOX.wants(events, kind)
  for word in string.gmatch(events, '%S+') do
    if word == '*' or word == kind or word == string.match(kind, '^[^.]*') .. '.*' then return true end
  end
  return false
end

-- Write events of a tenant to the outboxes of its endpoints that want them. events: {{type, object}, ...}.
function OUTBOX.tell(tenant, events)
  if not limit('webhooks') then return end
  for _, id in ipairs(redis.call('ZRANGE', K.webhooks_of(tenant), 0, -1)) do
    local e = read(K.webhook(id), {'state', 'events'})
    for _, event in ipairs(e.state and events or {}) do
      local kind, object = event[1], event[2]
      if OUTBOX.wants(e.events, kind) then
        OUTBOX.put(id, e.state, 'evt_' .. redis.sha1hex(object .. ' ' .. kind), kind, object, now_ms())
      end
    end
  end
end

-- The same, and to the endpoint of this object alone, if its submission named a URL.
function OUTBOX.tell_of(tenant, id, events, url)
  OUTBOX.tell(tenant, events)
  if not url then return end
  local own = OF_ONE .. id
  write(K.webhook(own), {tenant = tenant, url = url, events = '*', state = 'active', created = now_ms()})
  redis.call('PEXPIRE', K.webhook(own), OUTBOX.of_one_ms)
  for _, event in ipairs(events) do
    OUTBOX.put(own, 'active', 'evt_' .. redis.sha1hex(event[2] .. ' ' .. event[1]), event[1], event[2], now_ms())
  end
  OUTBOX.outlive(own, K.webhook_outbox(own))
end

-- A job has ended. j: the fields JOB of its record, and `incomplete`: its response reached a limit.
function OUTBOX.job_ended(id, j, to)
  local events, facts = {{'job.' .. to, id}}, redis.call('HGET', K.job(id), 'facts')
  if facts and cjson.decode(facts).endpoint == RESPONSE.endpoint then
    events[2] = {'response.' .. (j.incomplete and 'incomplete' or RESPONSE[to]), string.format(RESPONSE.id, id)}
  end
  OUTBOX.tell_of(j.tenant, id, events, j.webhook)
end
