-- What a worker says of an attempt: chunks, its end, or that it gives the job back.
define('append', function(a, blobs)
  local refused, outbox, now = {}, {}, now_ms()
  local function send(sink)
    local box = outbox[sink]
    box.size = nil -- cmsgpack would make a map of it
    redis.call('PUBLISH', K.api_channel(sink), cmsgpack.pack(box))
    outbox[sink] = nil
  end
  local entries = a.entries
  for i = 1, #blobs do
    local id, attempt, payload = entries[3 * i - 2], entries[3 * i - 1], blobs[i]
    local job = K.job(id)
    local s = redis.call('HMGET', job, 'state', 'attempt', 'sinks', 'first')
    if s[1] ~= 'running' or tonumber(s[2] or nil) ~= attempt then
      refused[#refused + 1] = id
    else
      local eid = attempt .. '-' .. entries[3 * i]
      local added = redis.pcall('XADD', K.log(id), eid, 'p', payload)
      if type(added) == 'string' then -- otherwise it is there already: the client library sent the call twice
        if not s[4] then redis.call('HSET', job, 'first', exactly(now)) end
        for sink in string.gmatch(s[3] or '', '%S+') do
          local box = outbox[sink] or {size = 0}
          outbox[sink] = box
          box[#box + 1] = id
          box[#box + 1] = eid
          box[#box + 1] = #payload > PUBLISHED and LOOK or payload
          box.size = box.size + #box[#box]
          if box.size > PUBLISHED then send(sink) end
        end
      end
    end
  end
  for sink in pairs(outbox) do send(sink) end
  return refused
end)

local function given(blob) return blob ~= '' and blob or nil end

define('finish', function(a, blobs)
  local id, me = a.id, tostring(a.attempt)
  local j = read(K.job(id), JOB)
  if j.ended_by == me then return true end -- the client library sent the call twice
  if j.state ~= 'running' or tonumber(j.attempt) ~= a.attempt then return false end
  local now = now_ms()
  local f = {ended_by = me, status = a.status, usage = a.usage, error = a.error, result = given(blobs[1]), partial = given(blobs[2])}
  for i, seq in ipairs(a.tail) do
    local eid = a.attempt .. '-' .. seq
    local added = redis.pcall('XADD', K.log(id), eid, 'p', blobs[i + 2])
    if type(added) == 'string' then publish(j.sinks, id, eid, blobs[i + 2]) end -- otherwise append has been here with it
    if not j.first then f.first = now end
  end
  leave_worker(id, a.worker, j.cancel)
  keep_objects(id, a.objects)
  j.model, j.device_us, j.incomplete = a.model, a.device_us, a.incomplete
  if j.cost and a.completion and a.event == 'succeed' then note_tokens(j.pool, j.tenant, a.model, a.completion) end
  end_job(id, j, ON[a.event].running, a.retention_ms, f, f.result, a.tokens or a.event == 'succeed' and tonumber(j.cost))
  return true
end)

-- Remember the kind of request that a convicted job is, for the api, which refuses the next one (jobs/poison.py).
local function remember_kind(key, a)
  local digest, now, kept, first = a.poison[1], now_ms(), 0, nil
  local known = redis.call('HGETALL', key)
  for i = 1, #known, 2 do
    local ends = cjson.decode(known[i + 1]).until_ms
    if known[i] ~= digest then
      kept = kept + 1
      if not first or ends < first.ends then first = {digest = known[i], ends = ends} end
    end
  end
  if kept >= a.most_poison then redis.call('HDEL', key, first.digest) end
  redis.call('HSET', key, digest, cjson.encode({until_ms = now + a.poison_ms, members = a.poison[2], job = a.id}))
  redis.call('PEXPIRE', key, a.poison_ms)
end

-- A release ('back') is no loss; how often there was one, the next worker is told. Of a lost attempt ('retry', 'kill') it is counted how often. A job under which the engine died
-- max_kills times counts as the cause and fails, so that it does not kill engine after engine. A pending cancel ends the job.
define('release', function(a, blobs)
  local id, job, me = a.id, K.job(a.id), tostring(a.attempt)
  local j = read(job, JOB)
  if j.ended_by == me or redis.call('HGET', job, 'released_by') == me then return j.state end -- the client library sent the call twice
  if j.state ~= 'running' or tonumber(j.attempt) ~= a.attempt then return nil end
  leave_worker(id, a.worker, j.cancel)
  redis.call('HSET', job, 'released_by', me)
  j.device_us = a.device_us
  if j.cancel then
    end_job(id, j, j.cancel, a.retention_ms, {ended_by = me})
    return j.cancel
  end
  if a.kind ~= 'back' then
    local lost, f, result = redis.call('HINCRBY', job, 'losses', 1), nil, given(blobs[1])
    if a.kind == 'kill' and redis.call('HINCRBY', job, 'kills', 1) >= a.max_kills then
      f = {status = 500, error = cjson.encode({code = 'poisoned', message = a.reason})}
      if a.poison then remember_kind(K.poison(j.pool), a) end
    elseif lost >= a.max_attempts or (j.exp and now_ms() + a.delay_ms >= tonumber(j.exp)) then
      f = {status = a.status, error = cjson.encode({code = a.code, message = a.reason}), result = result}
    end
    if f then
      f.ended_by = me
      keep_objects(id, f.result and a.objects)
      end_job(id, j, ON.give_up.running, a.retention_ms, f, f.result)
      return ON.give_up.running
    end
  end
  if a.kind == 'back' then redis.call('HINCRBY', job, 'releases', 1) end
  local to = a.kind == 'back' and ON.release.running or ON.retry.running
  requeue(id, to, j, a.kind == 'back' and a.reason or a.code, a.delay_ms)
  return to
end)

-- A job that a worker was given without its knowledge goes back at no cost. After STRAYS times nobody can read its record.
local STRAYS = 10

define('disown', function(a)
  local j = read(K.job(a.id), JOB)
  leave_worker(a.id, a.worker, true)
  if j.state ~= 'running' or j.worker ~= a.worker then return false end
  if j.cancel then
    end_job(a.id, j, j.cancel, a.retention_ms, {})
    count_end(j, j.cancel, '')
  elseif redis.call('HINCRBY', K.job(a.id), 'strays', 1) >= STRAYS then
    end_job(a.id, j, ON.give_up.running, a.retention_ms, {status = 500,
      error = cjson.encode({code = 'internal_error', message = 'no worker could read its record'})})
    count_end(j, 'failed', 'internal_error')
  else
    requeue(a.id, ON.release.running, j, 'not_delivered')
  end
  return true
end)
