-- From the backlogs to the lane's list, from which workers pop. The list holds a short window of messages in the order of turns: a job
-- whose turn comes sooner than those in the window is put between them, and the last one goes back to its backlog.
local WINDOW = 32

-- The list of the worker that ran this job's prefix last, and the worker's node.
local function own_list(pool, id)
  local key = redis.call('HGET', K.job(id), 'affinity')
  local node = key and redis.call('GET', K.affinity(pool, key))
  if not node then return nil end
  return K.own_queue(pool, node), node
end

-- The same list, if that worker has room now and has not missed a heartbeat (it sends three in a lease). Bulk is left to the lane
-- controller.
local function preferred_list(pool, lane, id)
  if lane == 'bulk' then return nil end
  local list, node = own_list(pool, id)
  if not list then return nil end
  local now = now_ms()
  local live = redis.call('ZRANGEBYSCORE', K.workers(), now, '+inf', 'WITHSCORES')
  for i = 1, #live, 2 do
    local w = redis.call('HMGET', K.worker(live[i]), 'node', 'pool', 'cap', 'ttl')
    if w[1] == node and w[2] == pool and w[3] then
      local fresh = live[i + 1] - now > (tonumber(w[4]) or 0) / 2
      local taken = redis.call('SCARD', K.worker_jobs(live[i])) + redis.call('LLEN', list)
      return fresh and taken < tonumber(w[3]) and list or nil
    end
  end
  return nil
end

-- Push a job's message, in the order of turns or, at_head, before all others.
local function dispatch(pool, lane, queue, id, turn, at_head)
  local text = message(id, queue)
  local own = not at_head and preferred_list(pool, lane, id)
  if own then
    redis.call('LPUSH', own, text)
  elseif at_head then
    redis.call('RPUSH', queue, text)
  else
    local after = redis.call('ZRANGEBYSCORE', K.window(queue), '(' .. exactly(turn), '+inf', 'LIMIT', 0, 1)[1]
    if not after then
      redis.call('LPUSH', queue, text)
    elseif redis.call('LINSERT', queue, 'AFTER', message(after, queue), text) <= 0 then
      redis.call('RPUSH', queue, text) -- that message was popped, and so were all before it
    end
  end
  redis.call('ZADD', K.window(queue), exactly(turn), id)
end

-- Take a job out of the window and back to its backlog: this one, or the last. Returns false if a worker has popped its message.
local function take_back(pool, lane, queue, id)
  id = id or redis.call('ZREVRANGE', K.window(queue), 0, 0)[1]
  if not id then return false end
  local text = message(id, queue) or ''
  if redis.call('LREM', queue, -1, text) == 0 then
    local own = own_list(pool, id)
    if not own or redis.call('LREM', own, 1, text) == 0 then return false end
  end
  local j = redis.call('HMGET', K.job(id), 'tenant', 'created')
  local turn = tonumber(redis.call('ZSCORE', K.window(queue), id))
  redis.call('ZREM', K.window(queue), id)
  dismiss(pool, lane, j[1])
  local head = redis.call('ZRANGE', K.backlog(queue, j[1]), 0, 0, 'WITHSCORES')
  local order = tonumber(j[2]) * 1000
  if head[2] then order = math.min(order, tonumber(head[2]) - 1) end
  add_to_backlog(pool, lane, queue, id, j[1], order, turn)
  return true
end

-- Whether the pool may have one more job on its engines: a higher lane takes the place of a lower lane's last dispatched job.
local function pool_has_room(pool, lane)
  local most = limit('max_active')
  if not most or fits(lane, most, count_admitted(pool)) then return true end
  for i = #LANES, rank_of(lane) + 1, -1 do
    if take_back(pool, LANES[i], K.queue(pool, LANES[i])) then return true end
  end
  return false
end

local function window_has_room(pool, lane, queue, turn)
  if redis.call('ZCARD', K.window(queue)) < WINDOW then return true end
  local last = redis.call('ZREVRANGE', K.window(queue), 0, 0, 'WITHSCORES')
  return turn < tonumber(last[2]) and take_back(pool, lane, queue)
end

-- Take back a tenant's dispatched job of a lower lane, in favour of one of this lane.
local function make_room(pool, lane, tenant)
  for i = #LANES, rank_of(lane) + 1, -1 do
    local queue = K.queue(pool, LANES[i])
    for _, id in ipairs(redis.call('ZREVRANGE', K.window(queue), 0, -1)) do
      if redis.call('HGET', K.job(id), 'tenant') == tenant and take_back(pool, LANES[i], queue, id) then
        local turn = redis.call('ZSCORE', K.turns(queue), tenant)
        if turn then park(pool, LANES[i], queue, tenant, tonumber(turn)) end
        return true
      end
    end
  end
  return false
end

-- Dispatch the jobs of one lane that may be dispatched now.
local function dispatch_lane(pool, lane)
  local queue = K.queue(pool, lane)
  while true do
    local first = redis.call('ZRANGE', K.turns(queue), 0, 0, 'WITHSCORES')
    local tenant, turn = first[1], tonumber(first[2])
    if not tenant or is_paused(pool) or not envelope() then return end
    if at_bound(pool, lane, tenant) and not make_room(pool, lane, tenant) then
      park(pool, lane, queue, tenant, turn)
    elseif window_has_room(pool, lane, queue, turn) and pool_has_room(pool, lane) then
      local backlog = K.backlog(queue, tenant)
      dispatch(pool, lane, queue, redis.call('ZPOPMIN', backlog)[1], turn)
      admit(pool, lane, tenant)
      local following = exactly(turn + step_of(tenant))
      if redis.call('EXISTS', backlog) == 1 then
        redis.call('ZADD', K.turns(queue), following, tenant)
      else
        redis.call('ZREM', K.turns(queue), tenant)
        redis.call('HSET', K.fair(queue), tenant, following)
      end
    else
      return
    end
  end
end

local function dispatch_pool(pool)
  for _, lane in ipairs(LANES) do dispatch_lane(pool, lane) end
end

-- A job is neither dispatched nor running any more: others may have its place.
local function release_place(pool, lane, tenant)
  dismiss(pool, lane, tenant)
  local parked = redis.call('EXISTS', K.parked(pool)) == 1
  if parked then unpark(pool) end
  if parked or limit('max_active') then dispatch_pool(pool) end
end
