-- The workers' leases, and what they say of themselves.

-- Register a worker: what its pool serves, and its lease. It is refused, and nothing is written, if it disagrees with a live worker of its
-- pool, or if a name that it serves (a model's own, or an alias) means another model at a live worker, or in a declared pool. Data of an
-- older version may declare a name twice: then no declaration shuts the other's workers out, and the answer has the name.
define('register', function(a)
  local now = now_ms()
  local live = redis.call('ZRANGEBYSCORE', K.leases(), '(' .. exactly(now), '+inf', 'WITHSCORES')
  for i = 1, #live, 2 do
    local o = read(K.worker(live[i]), {'info', 'pool', 'serves', 'names'})
    if live[i] ~= a.worker and o.serves then
      local other = {worker = live[i], lease_end = tonumber(live[i + 1]), info = o.info, serves = o.serves}
      if o.pool == a.pool and o.serves ~= a.serves then
        other.kind = 'pool'
        return other
      end
      for name, model in pairs(cjson.decode(o.names)) do
        if a.names[name] and a.names[name] ~= model then
          other.kind, other.name, other.model = 'name', name, model
          return other
        end
      end
    end
  end
  local records, home = NAMES.declarations(), a.version_of or a.pool
  local own, others = NAMES.split(a.names, home, records)
  local taken = NAMES.taken_by_declared(others, home, records)
  if taken then
    taken.kind = 'declared'
    return taken
  end
  -- The pool serves this and nothing else: forget the models of earlier workers.
  for _, field in ipairs(redis.call('HKEYS', K.models())) do
    if string.sub(field, 1, #a.pool + 1) == a.pool .. ' ' then redis.call('HDEL', K.models(), field) end
  end
  for model, said in pairs(a.facts) do
    redis.call('HSET', K.models(), a.pool .. ' ' .. model, said)
    redis.call('HSETNX', K.served(), model, exactly(math.floor(now / 1000)))
  end
  redis.call('HSET', K.worker(a.worker), 'info', a.info, 'pool', a.pool, 'serves', a.serves, 'names', cjson.encode(a.names), 'ttl', exactly(a.ttl_ms),
    'library', LIBRARY)
  redis.call('PEXPIRE', K.worker(a.worker), exactly(a.ttl_ms * 10))
  redis.call('ZADD', K.leases(), exactly(now + a.ttl_ms), a.worker)
  redis.call('SADD', K.pools(), a.pool)
  local said = cjson.decode(a.info)
  if said.start_s then -- what the next worker of the pool will be like
    redis.call('HSET', K.pool(a.pool), 'replica', exactly(said.capacity) .. ' ' .. exactly(said.bulk_capacity) .. ' ' .. exactly(said.start_s * 1000))
  end
  if a.version_of and redis.call('HEXISTS', K.pool(a.pool), 'forward') == 0 then -- until it is said that this version serves
    local said = redis.call('HGET', K.rollout(a.version_of), 'current')
    set_forward(a.pool, said and cjson.decode(said).pool or a.version_of)
  end
  redis.call('SADD', K.libraries(), LIBRARY)
  look('')
  local twice = NAMES.taken_by_declared(own, home, records) or {}
  return {kind = 'ok', name = twice.name, model = twice.model, pool = twice.pool}
end)

-- Fold the mean of some runs into the pool's.
local function note_runs(pool, field, mean, runs)
  if not mean or not runs or runs <= 0 then return end
  local old = number(redis.call('HGET', K.pool(pool), field))
  redis.call('HSET', K.pool(pool), field, exactly(old and old + (mean - old) * math.min(1, runs / 32) or mean))
end

-- Prolong a worker's lease; the first heartbeat takes it out. A lease that ran out while Redis was away, but that no reaper has ended, may
-- go on: no job was taken from the worker, and a job that a reaper takes is fenced by the attempt. 0 was set by bury.
define('heartbeat', function(a)
  local now, worker = now_ms(), a.worker
  local lease = redis.call('ZSCORE', K.leases(), worker)
  if not a.first and (not lease or tonumber(lease) == 0) then return {lost = true} end
  redis.call('ZADD', K.leases(), exactly(now + a.ttl_ms), worker)
  local key = K.worker(worker)
  if a.info then
    redis.call('HSET', key, 'info', a.info, 'pool', a.pool, 'ttl', exactly(a.ttl_ms), 'library', LIBRARY)
    redis.call('HSET', K.slots(a.pool), worker, a.slots .. ' ' .. a.bulk_slots .. (a.asleep and ' ' .. a.asleep or ''))
    note_runs(a.pool, 'run', a.run_ms, a.runs)
    note_runs(a.pool, 'bulk_run', a.bulk_run_ms, a.bulk_runs)
  end
  redis.call('PEXPIRE', key, exactly(a.ttl_ms * 10))
  redis.call('PEXPIRE', K.worker_adapters(worker), exactly(a.ttl_ms * 10))
  local orders = {}
  local flat = redis.call('HGETALL', K.worker_orders(worker))
  for i = 1, #flat, 2 do orders[#orders + 1] = {flat[i], flat[i + 1]} end
  local strays = a.running and redis.call('SCARD', K.worker_jobs(worker)) > a.running and redis.call('SMEMBERS', K.worker_jobs(worker))
  local adapters = a.pool and number(redis.call('HGET', K.adapters(a.pool), ':version'))
  return {orders = orders, jobs = strays or nil, adapters = adapters or nil}
end)

-- End the lease of a worker that has ended, so that the reaper need not wait for it.
define('bury', function(a)
  if redis.call('EXISTS', K.worker_jobs(a.worker)) == 1 then
    redis.call('ZADD', K.leases(), 'XX', 0, a.worker)
    forget_slots(a.worker)
  else
    forget_worker(a.worker)
  end
  return true
end)

-- Tell a worker something: at once over its channel, and with its next heartbeats in case it missed that.
define('worker_order', function(a)
  local lease = redis.call('ZSCORE', K.leases(), a.worker)
  if not lease or tonumber(lease) < now_ms() then return false end
  redis.call('HSET', K.worker_orders(a.worker), a.order, a.word)
  redis.call('PUBLISH', K.ctl_channel(a.worker), cmsgpack.pack({a.order, a.word}))
  return true
end)

-- Tell a worker to drain: at once over its channel, and with its next heartbeat in case it missed that.
define('drain', function(a)
  local lease = redis.call('ZSCORE', K.leases(), a.worker)
  if not lease or tonumber(lease) < now_ms() then return false end
  local timeout = tostring(a.timeout_s or '')
  local changed = redis.call('HGET', K.worker_orders(a.worker), 'drain') ~= timeout
  redis.call('HSET', K.worker_orders(a.worker), 'drain', timeout)
  if changed then audit(a, 'worker.drain', 'worker ' .. a.worker, {timeout_s = a.timeout_s}) end
  redis.call('PUBLISH', K.ctl_channel(a.worker), cmsgpack.pack({'drain', timeout}))
  return true
end)
