-- Batches: their records, the steps of the coordinator that has the lease, and their chunks. A chunk is an entry of `open`, then of `done`.

-- Count a change of a batch's record, and tell the api processes whose clients follow it. They read the record for more.
local function changed(id)
  local revision = redis.call('HINCRBY', K.batch(id), 'revision', 1)
  publish(redis.call('HGET', K.batch(id), 'sinks'), id, exactly(revision), 'c')
end

define('batch_create', function(a)
  local id, batch, input, now = a.id, K.batch(a.id), a.input_file_id, now_ms()
  if redis.call('EXISTS', batch) == 1 then return {kind = 'created', id = id} end -- the client library sent the call twice
  local before = made_before('batches', K.batch, a)
  if before then return before end
  if a.retry_of then
    local old = read(K.batch(a.retry_of), {'status', 'ended', 'retried_as', 'tenant'})
    if not owns(a, old.tenant) then return {kind = 'gone'} end
    if not old.ended then return {kind = old.status and 'unfinished' or 'gone'} end
    if old.retried_as and redis.call('EXISTS', K.batch(old.retried_as)) == 1 then return {kind = 'same', id = old.retried_as} end
  end
  local file = read(K.file(input), {'purpose', 'tenant'})
  local purpose = owns(a, file.tenant) and file.purpose or nil
  if purpose ~= 'batch' then return {kind = 'no_file', purpose = purpose} end
  local refusal = count_held(a.tenant, 'batches', 1, 'batches_max')
  if refusal then return refusal end
  note_idem('batches', a)
  if a.retry_of then redis.call('HSET', K.batch(a.retry_of), 'retried_as', id) end
  redis.call('HINCRBY', K.file(input), 'users', 1)
  local f = a.fields
  f.id, f.input_file_id, f.status, f.created, f.retry_of = id, input, 'validating', now, a.retry_of
  f.tenant, f.window_ms, f.expires, f.counted = a.tenant, a.window_ms, now + a.window_ms, 1
  write(batch, f)
  redis.call('ZADD', K.batches(), exactly(now), id)
  redis.call('ZADD', K.batches_of(a.tenant), exactly(now), id)
  redis.call('SADD', K.batches_active(), id)
  look(id)
  if a.retry_of then audit_of_another(a, a.tenant, 'batch.retry', 'batch ' .. a.retry_of, {retried_as = id}) end
  return {kind = 'created', id = id}
end)

-- A batch's status; nil: there is none that the caller may reach.
local function status_of(a)
  local s = read(K.batch(a.batch), {'status', 'tenant'})
  return owns(a, s.tenant) and s.status or nil
end

define('batch_cancel', function(a)
  local batch = K.batch(a.batch)
  local status = status_of(a)
  local to = status and ON.batch_cancel[status]
  if to then
    redis.call('HSET', batch, 'status', to, to .. '_at', exactly(now_ms()))
    changed(a.batch)
    look(a.batch)
    audit_of_another(a, redis.call('HGET', batch, 'tenant'), 'batch.cancel', 'batch ' .. a.batch)
  end
  return to or status
end)

define('batch_watch', function(a)
  local batch = K.batch(a.batch)
  if not status_of(a) then return false end
  local sinks = redis.call('HGET', batch, 'sinks') or ''
  if not string.find(' ' .. sinks .. ' ', ' ' .. a.sink .. ' ', 1, true) then
    redis.call('HSET', batch, 'sinks', sinks == '' and a.sink or sinks .. ' ' .. a.sink)
  end
  return true
end)

define('batch_pause', function(a)
  local batch = K.batch(a.batch)
  local status = status_of(a)
  if status == 'validating' or status == 'in_progress' then
    local turned = set_paused(batch, a.paused)
    look(a.batch)
    if turned then
      changed(a.batch)
      audit_of_another(a, redis.call('HGET', batch, 'tenant'), a.paused and 'batch.pause' or 'batch.resume', 'batch ' .. a.batch)
    end
  end
  return status
end)

-- Note why a batch cannot proceed; reason nil: it can. old: what its record says.
local function set_hold(id, reason, old)
  if reason == old then return end
  if reason then redis.call('HSET', K.batch(id), 'hold', reason) else redis.call('HDEL', K.batch(id), 'hold') end
  changed(id)
end

define('batch_hold', function(a)
  local batch = K.batch(a.batch)
  local s = read(batch, {'status', 'ended', 'hold'})
  if not s.status or s.ended then return false end
  set_hold(a.batch, a.reason, s.hold)
  return true
end)

local function drives(a) return redis.call('GET', K.batch_lease(a.batch)) == a.token end

define('batch_lease', function(a)
  local key = K.batch_lease(a.batch)
  if not drives(a) and redis.call('EXISTS', key) == 1 then return false end
  if a.ttl_ms > 0 then redis.call('SET', key, a.token, 'PX', exactly(a.ttl_ms)) else redis.call('DEL', key) end
  return true
end)

define('batch_step', function(a)
  local id, batch, now = a.batch, K.batch(a.batch), now_ms()
  local s = read(batch, {'status', 'input_file_id', 'tenant', 'counted', 'webhook'})
  if not s.status or not drives(a) then return false end
  if s.status ~= a.was then return s.status == a.to end -- the client library sent the call twice
  local names = {'status'}
  for field in pairs(a.fields) do names[#names + 1] = field end
  local before = redis.call('HMGET', batch, unpack(names))
  for field, value in pairs(a.fields) do
    if value == '' then
      redis.call('HDEL', batch, field)
      a.fields[field] = nil
    end
  end
  write(batch, a.fields)
  if a.was ~= a.to then redis.call('HSET', batch, 'status', a.to, a.to .. '_at', exactly(now)) end
  local after = redis.call('HMGET', batch, unpack(names))
  for i = 1, #names do
    if before[i] ~= after[i] then
      changed(id)
      break
    end
  end
  if a.was == a.to or not a.ends then return true end
  redis.call('HSET', batch, 'ended', exactly(now))
  redis.call('HDEL', batch, 'paused', 'hold', 'closing')
  OUTBOX.tell_of(s.tenant or 'default', id, {{'batch.' .. a.to, id}}, s.webhook)
  redis.call('SREM', K.batches_active(), id)
  if s.counted then count_held(s.tenant, 'batches', -1) end
  redis.call('ZADD', K.batches_retire(), exactly(now + a.retention_ms), id)
  redis.call('ZADD', K.batches_parts(), exactly(now + a.parts_retention_ms), id)
  redis.call('PEXPIRE', batch, exactly(a.retention_ms + OUTLIVES_MS))
  redis.call('PEXPIRE', K.batch_done(id), exactly(a.retention_ms))
  redis.call('DEL', K.batch_open(id))
  if redis.call('EXISTS', K.file(s.input_file_id)) == 1 then redis.call('HINCRBY', K.file(s.input_file_id), 'users', -1) end
  return true
end)

local function is_done(a) return redis.call('HEXISTS', K.batch_done(a.batch), a.chunk) == 1 end

local function entry_of(a)
  local raw = redis.call('HGET', K.batch_open(a.batch), a.chunk)
  return raw and cjson.decode(raw)
end

local function keep(a, entry) redis.call('HSET', K.batch_open(a.batch), a.chunk, cjson.encode(entry)) end

local function close(a, ledger)
  redis.call('HSET', K.batch_done(a.batch), a.chunk, ledger)
  redis.call('HDEL', K.batch_open(a.batch), a.chunk)
end

local function count_rows(a)
  for field, by in pairs(a.new) do
    if by ~= 0 then redis.call('HINCRBY', K.batch(a.batch), field, exactly(by)) end
  end
  local used = a.used or a.new
  changed(a.batch)
  count_usage_of_rows(K.batch(a.batch), used, a.device_us)
  if not limit('by_tenant') then return end
  use_for_rows(redis.call('HGET', K.batch(a.batch), 'tenant') or '', used.input_tokens + used.output_tokens)
end

-- Whether a batch must wait for its tenant: then its record says why.
local function is_held(a, tenant)
  local reason = batch_waits_for(tenant or '')
  if reason then set_hold(a.batch, reason, redis.call('HGET', K.batch(a.batch), 'hold')) end
  return reason ~= nil
end

local function go(a)
  local s = read(K.batch(a.batch), {'paused', 'tenant'})
  return (s.paused or is_held(a, s.tenant)) and 'paused' or 'run'
end

-- The entry of a chunk that is this job's, which is running with this attempt; nil: it is not.
local function own_entry(a)
  local entry, s = entry_of(a), read(K.job(a.job), {'state', 'attempt'})
  return entry and entry.job == a.job and s.state == 'running' and number(s.attempt) == a.attempt and entry or nil
end

define('chunk_open', function(a)
  local batch = K.batch(a.batch)
  local s = read(batch, {'status', 'next', 'tenant', 'hold'})
  if not drives(a) or s.status ~= 'in_progress' or is_done(a) or is_held(a, s.tenant) then return false end
  if WAITS[s.hold] then set_hold(a.batch, nil, s.hold) end
  local old = entry_of(a)
  keep(a, {ledger = old and old.ledger or '', job = a.job, gen = a.generation})
  if not old and a.chunk >= (number(s.next) or 0) then redis.call('HSET', batch, 'next', a.chunk + 1) end
  return true
end)

define('chunk_take', function(a)
  if is_done(a) then return 'done' end
  local entry, me = own_entry(a), a.job .. ' ' .. a.attempt
  if not entry then return 'gone' end
  if entry.taken == me then return go(a) end -- the client library sent the call twice
  if entry.ledger ~= a.seen then return nil end
  entry.ledger, entry.taken = a.ledger, me
  keep(a, entry)
  count_rows(a)
  look(a.batch)
  return go(a)
end)

define('chunk_commit', function(a)
  local entry = own_entry(a)
  if not entry then return 'gone' end
  local others, last = string.match(' ' .. entry.ledger, '^(.*) ' .. a.writer .. ':(%d+)$')
  if not others or tonumber(last) < a.last then
    others = others or entry.ledger ~= '' and ' ' .. entry.ledger or ''
    entry.ledger = string.sub(others .. ' ' .. a.writer .. ':' .. a.last, 2)
    keep(a, entry)
    count_rows(a)
  end
  set_hold(a.batch, nil, redis.call('HGET', K.batch(a.batch), 'hold') or nil)
  return go(a)
end)

define('chunk_end', function(a)
  if is_done(a) then return true end
  local entry = own_entry(a)
  if not entry then return false end
  if a.done then
    close(a, entry.ledger)
  else
    entry.job = ''
    keep(a, entry)
  end
  return true
end)

define('chunk_settle', function(a)
  if not drives(a) then return false end
  if is_done(a) then return true end -- the client library sent the call twice
  close(a, a.ledger)
  count_rows(a)
  return true
end)
