-- Tasks that the api asks of the coordinators.
local function holds_task(a)
  local s = read(K.task(a.kind, a.batch), {'run', 'attempt', 'answer'})
  return number(s.run) == a.run and number(s.attempt) == a.attempt and not s.answer
end

define('task_ask', function(a)
  local now, task, sink = now_ms(), K.task(a.kind, a.batch), a.sink
  if redis.call('ZCOUNT', K.coordinators(), '(' .. exactly(now), '+inf') == 0 then return nil end
  if a.owner and not owns(a, redis.call('HGET', K.batch(a.batch), 'tenant') or nil) then return 0 end
  local s = read(task, {'run', 'answer', 'sinks'})
  local run = number(s.run) or 0
  if s.run and not s.answer then
    if not string.find(' ' .. s.sinks .. ' ', ' ' .. sink .. ' ', 1, true) then redis.call('HSET', task, 'sinks', s.sinks .. ' ' .. sink) end
    return run
  end
  run = math.max(now, run + 1)
  redis.call('DEL', task)
  write(task, {run = run, attempt = 0, args = a.args, sinks = sink})
  redis.call('PEXPIRE', task, exactly(a.ttl_ms))
  redis.call('ZADD', K.tasks(), exactly(now), a.kind .. ' ' .. a.batch)
  look(a.batch)
  return run
end)

define('task_take', function(a)
  local task, name, now = K.task(a.kind, a.batch), a.kind .. ' ' .. a.batch, now_ms()
  local due, s = redis.call('ZSCORE', K.tasks(), name), read(task, {'run', 'attempt', 'deaths', 'args', 'taking'})
  if not due then return nil end
  if not s.run then -- its time was over
    redis.call('ZREM', K.tasks(), name)
    return nil
  end
  local taken = {run = number(s.run), attempt = number(s.attempt), deaths = number(s.deaths) or 0, args = s.args}
  if s.taking == a.taking then return taken end -- the client library sent the call twice
  if tonumber(due) > now then return nil end
  redis.call('ZADD', K.tasks(), exactly(now + a.lease_ms), name)
  taken.attempt = taken.attempt + 1
  if s.taking then taken.deaths = taken.deaths + 1 end -- who had it did not give it back
  write(task, {attempt = taken.attempt, deaths = taken.deaths, taking = a.taking, coordinator = a.coordinator})
  return taken
end)

define('task_keep', function(a)
  if not holds_task(a) then return false end
  redis.call('ZADD', K.tasks(), exactly(now_ms() + a.lease_ms), a.kind .. ' ' .. a.batch)
  if a.lease_ms == 0 then
    redis.call('HDEL', K.task(a.kind, a.batch), 'taking')
    look(a.batch)
  end
  return true
end)

define('task_end', function(a)
  local task = K.task(a.kind, a.batch)
  if not holds_task(a) then return false end
  redis.call('HSET', task, 'answer', a.answer)
  redis.call('PEXPIRE', task, exactly(a.ttl_ms))
  redis.call('ZREM', K.tasks(), a.kind .. ' ' .. a.batch)
  publish(redis.call('HGET', task, 'sinks'), task, string.format('%d', a.run), a.answer)
  return true
end)
