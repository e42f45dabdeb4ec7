-- Shared by every function. Before this stand the key names K, the lanes in order (LANES), the transitions (ON.claim and so on), and the
-- functions' FLAGS and SIGNATURES (broker/db/library.py). All times are the server's.
local clock -- of the command under way, which carries out one call or several of one function
local seen -- what it has read, by name: limits; and tenants, quotas and usage, each a table
local moved -- how many jobs a command has moved up in their lines, see close_gap
local at_end = {} -- functions that write, once for all calls of a command, what is kept back until then

local function now_ms()
  if not clock then
    local t = redis.call('TIME')
    clock = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return clock
end

-- A number as text, for Redis: some servers (7.2) would write 200000000 as 2e+8, which is no integer to them.
-- A whole number is printed as one, which takes a fraction of the time.
local function exactly(number)
  return string.format(number % 1 == 0 and math.abs(number) < 2^53 and '%d' or '%.17g', number)
end

-- What is wrong with the arguments of a call; nil: nothing.
local function mismatch(signature, arguments)
  for field, kind in pairs(signature.needs) do
    if type(arguments[field]) ~= kind then return field .. ' must be a ' .. kind .. ', not a ' .. type(arguments[field]) end
  end
  for field, value in pairs(arguments) do
    local kind = signature.takes[field]
    if kind and type(value) ~= kind then return field .. ' must be a ' .. kind .. ', not a ' .. type(value) end
  end
end

-- Make a function of the library. body gets the arguments by name, and the blobs; it returns the answer, and blobs to follow it.
-- argv: the namespace, the arguments, the blobs. Of several calls: a list of {arguments, how many blobs}, and the blobs of all. Each call
-- has its own reply: one that fails does no harm to those after it.
local function define(name, body)
  local function reply_to(arguments, given)
    local wrong = mismatch(SIGNATURES[name], arguments)
    if wrong then return redis.error_reply('ERR bad call of ' .. name .. ': ' .. wrong) end
    local answer, blobs = body(arguments, given)
    if not blobs then return cmsgpack.pack(answer) end
    table.insert(blobs, 1, cmsgpack.pack(answer))
    return blobs
  end
  redis.register_function{function_name = name .. SUFFIX, flags = FLAGS[name], callback = function(_, argv)
    ns, clock, moved, seen = argv[1], nil, 0, {tenants = {}, quotas = {}, usage = {}}
    local asked = cmsgpack.unpack(argv[2])
    local calls, replies, at = asked[1] and asked or {{asked, #argv - 2}}, {}, 3
    for i, call in ipairs(calls) do
      local given = {}
      for n = 1, call[2] do given[n], at = argv[at], at + 1 end
      local done, reply = pcall(reply_to, call[1], given)
      replies[i] = done and reply or {err = type(reply) == 'table' and reply.err or 'ERR ' .. tostring(reply)}
    end
    for _, finish in ipairs(at_end) do finish() end
    return asked[1] and replies or replies[1]
  end}
end

-- Read fields of a hash, by name. call: redis.pcall reads nothing from a key that is no hash; else that is an error.
local function read(key, fields, call)
  local values, named = (call or redis.call)('HMGET', key, unpack(fields)), {}
  for i, field in ipairs(fields) do named[field] = values[i] or nil end
  return named
end

local function write(key, fields)
  local flat, n = {}, 0
  for name, value in pairs(fields) do
    flat[n + 1], flat[n + 2] = name, type(value) == 'number' and exactly(value) or value
    n = n + 2
  end
  if n > 0 then redis.call('HSET', key, unpack(flat)) end
end

-- Pause or resume what a hash is the record of. Returns whether that changed it.
local function set_paused(key, paused)
  if paused then return redis.call('HSETNX', key, 'paused', 1) == 1 end
  return redis.call('HDEL', key, 'paused') == 1
end

local function number(text) return tonumber(text or nil) end

-- For so long a record outlives its retention, at whose end the reaper deletes it: the reaper needs its tenant. A week without any reaper
-- leaves entries in the indexes by tenant, which lists pass over.
local OUTLIVES_MS = 604800000

-- Whether the caller may reach an object of this tenant. a.owner: the tenant that asks; nil: an admin, or a process of ours. Records without
-- a tenant are older than tenants. Another's object is answered as one that does not exist.
local function owns(a, tenant) return not a.owner or a.owner == (tenant or 'default') end

-- Note an administrative act in the audit stream, if a person asked for it: a.by, JSON of jobs.access.Actor. It is called after the act
-- changed something. what: '<kind>.<verb>', on: its object, '<kind> <id>', details: a table, with `tenant` if the object has one; or nil.
local function audit(a, what, on, details)
  if not a.by then return end
  redis.call('XADD', K.audit(), '*', 'what', what, 'by', a.by, 'on', on, 'details', details and cjson.encode(details) or '{}')
end

-- The same for an act on what belongs to a tenant, unless that is the tenant of whom asked. details gets the tenant.
local function audit_of_another(a, tenant, what, on, details)
  if not a.by or cjson.decode(a.by).tenant == tenant then return end
  details = details or {}
  details.tenant = tenant
  audit(a, what, on, details)
end

-- The last sequence numbers of an attempt: its end, and its return to the queue.
local SEQ_END = '4294967295'
local SEQ_BACK = '4294967294'

-- Most bytes of a payload that is published: Redis disconnects a subscriber that has 32 MiB unread, and an api has one subscription for all
-- of its clients. In place of a longer payload goes LOOK: read the log, or the record.
local PUBLISHED = 262144
local LOOK = 'l'

-- Send one event to every api process that subscribed to this job's events.
local function publish(sinks, id, eid, payload)
  if not sinks or sinks == '' then return end
  if #payload > PUBLISHED then payload = LOOK end
  local event = cmsgpack.pack({id, eid, payload})
  for sink in string.gmatch(sinks, '%S+') do
    redis.call('PUBLISH', K.api_channel(sink), event)
  end
end

-- Log (streamed jobs only) and publish a change of state that is not an end.
local function publish_state(id, stream, sinks, eid, state, attempt, worker)
  if not stream and not sinks then return end
  local payload = 's' .. cjson.encode({state = state, attempt = attempt, worker = worker})
  if stream then redis.pcall('XADD', K.log(id), eid, 'p', payload) end
  publish(sinks, id, eid, payload)
end

-- Have the coordinators look at a batch or a task now; '': at every batch.
local function look(id)
  redis.call('PUBLISH', K.look_channel(), cmsgpack.pack({id}))
end

-- Those that the way of a job needs, which are read at once.
local LIMITS = {'max_active', 'tenant_max_active', 'by_tenant', 'turns_in_jobs', 'usage_rows_max', 'webhooks'}

local function limit(name)
  seen.limits = seen.limits or read(K.limits(), LIMITS)
  return number(seen.limits[name])
end

-- Any other limit.
local function rare_limit(name) return number(redis.call('HGET', K.limits(), name)) end

-- What an operator has set for a tenant and functions read, by name, as text; see lua/tenant.lua. by_tenant: some tenant has a record. It is
-- read in every call, so it is one field of JSON, which costs less than many fields.
local NO_RECORD = {}

local function tenant_record(tenant)
  if not limit('by_tenant') then return NO_RECORD end
  local known = seen.tenants[tenant]
  if not known then
    local told = redis.call('HGET', K.tenant(tenant), 'told')
    known = told and cjson.decode(told) or NO_RECORD
    seen.tenants[tenant] = known
  end
  return known
end

local function limit_of(tenant, name) return number(tenant_record(tenant)[name]) end

local function bound_of(tenant) return limit_of(tenant, 'max_active') or limit('tenant_max_active') end

-- Slots under a bound that bulk never gets, so that it cannot fill the bound.
local function kept_from_bulk(most) return math.max(1, math.ceil(most / 4)) end

-- Whether a bound (most) allows one more job of this lane beside `all` running ones, `bulk` of them bulk. One bulk job may always run: under
-- a bound of 1 an interactive job then runs beside it.
local function fits(lane, most, all, bulk)
  local kept = kept_from_bulk(most)
  if lane == 'bulk' then return all < most and bulk < math.max(1, most - kept) end
  return all < most or all - bulk < kept
end

-- Every api process forgets the keys and the tenants that it knows when the version changes. It is a time, so that no number comes back if
-- Redis was emptied.
local function access_changed()
  local version = number(redis.call('HGET', K.access(), 'version')) or 0
  redis.call('HSET', K.access(), 'version', exactly(math.max(version + 1, now_ms())))
end

-- What was made before with the same idempotency key, if that is there still. room: 'files' or 'batches'.
local function made_before(room, key, a)
  local known = a.idem and redis.call('GET', K.idem(room, a.tenant, a.idem))
  local id, digest = string.match(known or '', '(%S+) (%S*)')
  if id and redis.call('EXISTS', key(id)) == 1 then return {kind = digest == a.digest and 'same' or 'conflict', id = id} end
end

local function note_idem(room, a)
  if a.idem then redis.call('SET', K.idem(room, a.tenant, a.idem), a.id .. ' ' .. a.digest, 'PX', exactly(a.idem_ttl_ms)) end
end

-- A worker's description, which names its pool, may be gone before it is buried.
local function forget_slots(worker)
  for _, pool in ipairs(redis.call('SMEMBERS', K.pools())) do redis.call('HDEL', K.slots(pool), worker) end
end

local function forget_worker(worker)
  forget_slots(worker)
  redis.call('ZREM', K.leases(), worker)
  redis.call('DEL', K.worker(worker), K.worker_orders(worker), K.worker_adapters(worker))
end
