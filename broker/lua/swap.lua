-- A swap group: workers of one machine whose models take turns on the same devices.
--
-- swap:<machine>:<group> holds, by worker, `m:` what it says of itself (JSON, with `at`, the time) and `g:` its grant: the devices are its to
-- use. `f:<pool>` (JSON) has how often in a row the pool's first load failed, and when it last did. `wanted` (JSON) are the workers that should
-- have them, `looked` is when somebody last decided that, and `waits` (JSON) is what waited then, by pool.

-- For how many tenants of a lane the first job is looked at.
local HEADS = 16

-- Note that a member could not load its model for the first time.
local function note_failure(key, pool)
  local before = redis.call('HGET', key, 'f:' .. pool)
  local count = before and cjson.decode(before).count or 0
  redis.call('HSET', key, 'f:' .. pool, cjson.encode({count = count + 1, at = now_ms()}))
end

-- What is left of a group: workers whose lease has been ended lose what they had. One that only ran out may go on, see heartbeat; so as long as
-- no reaper has ended it, the worker may live and hold the devices. Returns descriptions and grants by worker, and how many grants there are.
local function group_of(key)
  local said, granted, grants, gone, ended, held = {}, {}, 0, {}, {}, {}
  local flat = redis.call('HGETALL', key)
  for i = 1, #flat, 2 do
    local kind, worker = string.match(flat[i], '^([mg]):(.*)$')
    if kind then
      if (number(redis.call('ZSCORE', K.leases(), worker)) or 0) == 0 then
        gone[#gone + 1] = flat[i]
        if kind == 'm' then ended[worker] = cjson.decode(flat[i + 1]) else held[worker] = true end
      elseif kind == 'm' then
        said[worker] = cjson.decode(flat[i + 1])
      else
        granted[worker], grants = true, grants + 1
      end
    end
  end
  if gone[1] then redis.call('HDEL', key, unpack(gone)) end
  for worker, one in pairs(ended) do
    if one.boots and held[worker] then note_failure(key, one.pool) end -- its load killed it
  end
  return said, granted, grants
end

local function wanted_of(key) return cjson.decode(redis.call('HGET', key, 'wanted') or '[]') end

-- Have a worker look at its group now.
local function nudge(worker) redis.call('PUBLISH', K.ctl_channel(worker), cmsgpack.pack({'swap', ''})) end

-- What waits for a pool, by lane: jobs, since when the first waits, and how long until the first deadline of those looked at.
local function waits_of(pool)
  local waits, now = {}, now_ms()
  local p = read(K.pool(pool), POOL)
  if p.paused then return waits end
  for _, lane in ipairs(LANES) do
    local jobs = number(p['depth:' .. lane]) or 0
    if jobs > 0 then
      local since, left = now, nil
      for _, tenant in ipairs(redis.call('ZRANGE', K.turns(pool, lane), 0, HEADS - 1)) do
        local id = redis.call('ZRANGE', K.backlog(pool, lane, tenant), 0, 0)[1]
        local j = id and read(K.job(id), {'created', 'exp', 'qexp'}, redis.pcall) or {}
        since = math.min(since, number(j.created) or now)
        local until_ms = math.min(number(j.exp) or math.huge, number(j.qexp) or math.huge)
        if until_ms < math.huge then left = math.min(left or math.huge, until_ms - now) end
      end
      waits[#waits + 1] = {lane = lane, jobs = jobs, oldest_ms = now - since, left_ms = left}
    end
  end
  return waits
end

-- What waits for each pool of a group. Looked up for those who decide; the others, of which each asks several times a second, get what they saw.
local function waits_by_pool(key, said, decides)
  if not decides then return cjson.decode(redis.call('HGET', key, 'waits') or '{}') end
  local waits = {}
  for _, one in pairs(said) do waits[one.pool] = waits[one.pool] or waits_of(one.pool) end
  redis.call('HSET', key, 'waits', cjson.encode(waits))
  return waits
end

-- Say what a member is and does, and see its group. One that has the devices and no grant (Redis lost it) gets it back if there is a place.
define('swap_report', function(a)
  local key, now = K.swap(a.machine, a.group), now_ms()
  local said, granted, grants = group_of(key)
  if (number(redis.call('ZSCORE', K.leases(), a.worker)) or 0) == 0 then return {lost = true} end
  local mine = cjson.decode(a.said)
  mine.pool, mine.at = a.pool, now
  redis.call('HSET', key, 'm:' .. a.worker, cjson.encode(mine))
  said[a.worker] = mine
  if not mine.boots then redis.call('HDEL', key, 'f:' .. a.pool) end
  if a.has and not granted[a.worker] and grants < a.awake then
    redis.call('HSET', key, 'g:' .. a.worker, exactly(now))
    granted[a.worker] = true
  end
  local looked = number(redis.call('HGET', key, 'looked')) or 0
  local decides = math.abs(now - looked) >= a.every_ms
  if decides then redis.call('HSET', key, 'looked', exactly(now)) end
  redis.call('PEXPIRE', key, exactly(a.ttl_ms * 10))
  local members, waits = {}, waits_by_pool(key, said, decides)
  for worker, one in pairs(said) do
    local failed = one.boots and redis.call('HGET', key, 'f:' .. one.pool)
    failed = failed and cjson.decode(failed) or nil
    members[#members + 1] = {worker = worker, said = cjson.encode(one), age_ms = now - one.at, holds = granted[worker] or false,
      failures = failed and failed.count or nil, failed_ms = failed and now - failed.at or nil,
      running = redis.call('SCARD', K.worker_jobs(worker)), waits = waits[one.pool] or {}}
  end
  return {members = members, wanted = wanted_of(key), decides = decides}
end)

-- Say which workers should have the devices. False: somebody else did so meanwhile.
define('swap_want', function(a)
  local key = K.swap(a.machine, a.group)
  local before, same = {}, {}
  for _, worker in ipairs(wanted_of(key)) do before[worker] = true end
  for _, worker in ipairs(a.before) do same[worker] = true end
  for worker in pairs(before) do if not same[worker] then return false end end
  for worker in pairs(same) do if not before[worker] then return false end end
  redis.call('HSET', key, 'wanted', cjson.encode(a.wanted))
  for _, worker in ipairs(a.wanted) do
    if not before[worker] then nudge(worker) end
    before[worker] = nil
  end
  for worker in pairs(before) do -- it may wait for a bell, and must not claim any more
    nudge(worker)
    toll(K.own_bell(worker))
    redis.call('PEXPIRE', K.own_bell(worker), 1000)
  end
  return true
end)

-- Take the devices, if there is a place and the worker is wanted there. Returns whether it has them.
define('swap_take', function(a)
  local key = K.swap(a.machine, a.group)
  local said, granted, grants = group_of(key)
  if granted[a.worker] then return true end
  if not said[a.worker] or grants >= a.awake then return false end
  for _, worker in ipairs(wanted_of(key)) do
    if worker == a.worker then
      redis.call('HSET', key, 'g:' .. worker, exactly(now_ms()))
      return true
    end
  end
  return false
end)

-- Give the devices back, and have those look that may take them. leaves: the worker is no member any more; failed: as its first load failed.
define('swap_give', function(a)
  local key = K.swap(a.machine, a.group)
  redis.call('HDEL', key, 'g:' .. a.worker)
  if a.leaves then redis.call('HDEL', key, 'm:' .. a.worker) end
  if a.failed then note_failure(key, a.failed) end
  for _, worker in ipairs(wanted_of(key)) do
    if worker ~= a.worker then nudge(worker) end
  end
  return true
end)
