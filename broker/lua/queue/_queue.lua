-- The fair queue: how a job enters a lane and leaves it. A lane's list holds a short window of messages (_dispatch.lua); all other jobs
-- wait in one backlog per tenant, and the tenants take turns (_turns.lua) within their bounds (_bounds.lua).
--
-- Invariants (tests/invariants.py): queued = window + backlogs; turns = tenants with a backlog that are not parked; waiting = queued by
-- tenant; admitted = windows and running, by tenant; admitted_bulk = of these, the jobs of the lane bulk.
local function count_waiting(pool, tenant, by)
  if redis.call('HINCRBY', K.waiting(pool), tenant, by) <= 0 then redis.call('HDEL', K.waiting(pool), tenant) end
end

-- Add a job to a lane. It is dispatched at once if no job is before it.
local function enqueue(pool, lane, id, tenant, order, now)
  local queue = K.queue(pool, lane)
  redis.call('SADD', K.queues(), queue)
  redis.call('ZADD', K.queued(queue), now, id)
  count_waiting(pool, tenant, 1)
  local alone = redis.call('EXISTS', K.turns(queue)) == 0 and redis.call('EXISTS', K.parked(pool)) == 0
  if alone and not is_paused(pool) and envelope() and not at_bound(pool, lane, tenant) then
    local turn = turn_of_next(queue, tenant)
    if window_has_room(pool, lane, queue, turn) and pool_has_room(pool, lane) then
      dispatch(pool, lane, queue, id, turn)
      admit(pool, lane, tenant)
      redis.call('HSET', K.fair(queue), tenant, exactly(turn + step_of(tenant)))
      return
    end
  end
  add_to_backlog(pool, lane, queue, id, tenant, order)
  dispatch_lane(pool, lane)
end

-- Make a job the next of its lane. has_place: it was running, so it is admitted already.
local function enqueue_first(pool, lane, id, tenant, now, has_place)
  local queue = K.queue(pool, lane)
  redis.call('SADD', K.queues(), queue)
  redis.call('ZADD', K.queued(queue), now, id)
  count_waiting(pool, tenant, 1)
  local ready = not is_paused(pool) and envelope()
    and (has_place or pool_has_room(pool, lane) or take_back(pool, lane, queue))
  if ready then
    local first = tonumber(redis.call('ZRANGE', K.window(queue), 0, 0, 'WITHSCORES')[2] or nil)
    local turn = current_turn(queue)
    -- A little before the first, so that the window's order is the list's; no more, as it may be taken back with this turn.
    if first then turn = math.min(turn, first - 0.001) end
    dispatch(pool, lane, queue, id, turn, true)
    if not has_place then admit(pool, lane, tenant) end
  else
    if has_place then dismiss(pool, lane, tenant) end
    local head = redis.call('ZRANGE', K.backlog(queue, tenant), 0, 0, 'WITHSCORES')[2]
    add_to_backlog(pool, lane, queue, id, tenant, math.min(0, (tonumber(head or nil) or 1) - 1))
  end
end

-- Remove a queued job from its lane; claimed: it goes to an engine. Returns false if it was not there: it waits for its next attempt.
local function dequeue(pool, lane, id, tenant, claimed)
  local queue = K.queue(pool, lane)
  if redis.call('ZREM', K.queued(queue), id) == 0 then
    redis.call('ZREM', K.delayed(), id)
    if claimed then admit(pool, lane, tenant) end
    return false
  end
  count_waiting(pool, tenant, -1)
  local was_dispatched = redis.call('ZREM', K.window(queue), id) == 1
  if not was_dispatched then -- it waited for its turn; if it is claimed, its message is an older one or was pushed by hand
    local backlog = K.backlog(queue, tenant)
    redis.call('ZREM', backlog, id)
    if redis.call('EXISTS', backlog) == 0 then
      local next_turn = redis.call('ZSCORE', K.turns(queue), tenant)
      if next_turn then redis.call('HSET', K.fair(queue), tenant, next_turn) end
      redis.call('ZREM', K.turns(queue), tenant)
      redis.call('ZREM', K.parked(pool), lane .. ' ' .. tenant)
    end
    if claimed then admit(pool, lane, tenant) end
  elseif not claimed then
    redis.call('LREM', queue, 1, message(id, queue) or '')
  end
  if redis.call('EXISTS', K.queued(queue)) == 0 then redis.call('DEL', K.fair(queue)) end
  if was_dispatched and not claimed then release_place(pool, lane, tenant) end
  dispatch_lane(pool, lane)
  return true
end
