-- Completion tokens that a job is thought to need before any was measured.
local UNKNOWN_TOKENS = 128

-- What an estimate may be at most, so that turns stay exact whatever is asked for.
local MOST_TOKENS = 1e9

-- Completion tokens of an answer, by experience.
local function mean_of(pool, tenant, model)
  local means = redis.call('HMGET', K.means(pool), tenant .. ' ' .. model, ' ' .. model)
  return number(means[1]) or number(means[2]) or UNKNOWN_TOKENS
end

local function whole_tokens(count) return math.min(MOST_TOKENS, math.max(1, math.floor(count))) end

-- Note how many completion tokens an answer had.
local function note_tokens(pool, tenant, model, completion)
  local key, mine, all = K.means(pool), tenant .. ' ' .. model, ' ' .. model
  local means = redis.call('HMGET', key, mine, all)
  local function mean(old) return exactly(number(old) and old + (completion - old) / 16 or completion) end
  redis.call('HSET', key, mine, mean(means[1]), all, mean(means[2]))
end

-- Slots of a pool's live workers (nil: none is known), those that they leave to bulk, and jobs of workers that drain and have no slots.
local function slots_of(pool)
  local slots, for_bulk, leaving, said = 0, 0, 0, redis.call('HGETALL', K.slots(pool))
  for i = 1, #said, 2 do
    local all, bulk = string.match(said[i + 1], '(%d+) (%d+)')
    slots, for_bulk = slots + all, for_bulk + bulk
    if all == '0' then leaving = leaving + redis.call('SCARD', K.worker_jobs(said[i])) end
  end
  return said[1] and slots, for_bulk, leaving
end

-- Slots that a pool's sleeping workers have once they are awake, those that they leave to bulk, and the milliseconds until the first is.
local function sleeping_slots_of(pool)
  local slots, for_bulk, wake_ms, said = 0, 0, nil, redis.call('HGETALL', K.slots(pool))
  for i = 2, #said, 2 do
    local all, bulk, ms = string.match(said[i], '%d+ %d+ (%d+) (%d+) (%d+)')
    if all then slots, for_bulk, wake_ms = slots + all, for_bulk + bulk, math.min(wake_ms or math.huge, tonumber(ms)) end
  end
  return slots, for_bulk, wake_ms
end

-- How many more jobs of this lane the workers could run now.
local function free_slots(pool, lane)
  local p = read(K.pool(pool), {'active', 'bulk', 'paused'})
  local slots, for_bulk, leaving = slots_of(pool)
  if p.paused or not slots then return 0 end
  local free = math.min(slots + leaving, limit('max_active') or math.huge) - (number(p.active) or 0)
  if lane == 'bulk' then free = math.min(free, for_bulk - (number(p.bulk) or 0)) end
  return math.max(0, free)
end

-- Reject mode: whether every slot for this job is taken, and how many jobs run or are about to.
local function is_busy(pool, lane, tenant)
  local p = read(K.pool(pool), {'active', 'bulk', 'paused', 'depth:realtime', 'depth:high', 'depth:normal', 'depth:low'})
  local slots, _, leaving = slots_of(pool)
  local active, bulk = math.max(0, (number(p.active) or 0) - leaving), number(p.bulk) or 0
  slots = slots or 0
  -- Of a pool that scales from zero nothing runs until something waits.
  if slots == 0 and not p.paused and scales_from_zero(pool) then return false, active end
  local mine = 0
  for i = 1, #LANES - 1 do
    active = active + (number(p['depth:' .. LANES[i]]) or 0)
    mine = mine + redis.call('ZCARD', K.backlog(pool, LANES[i], tenant))
  end
  local most = math.min(slots, limit('max_active') or slots)
  local room = most > 0 and fits(lane, most, active, math.min(bulk, active))
  return not room or p.paused or at_bound(pool, lane, tenant, mine, 0), active
end

-- At most FOLLOWERS follow one job, as one function ends them all.
local FOLLOWERS = 100

-- The job under way that answers this identical one too, unless it is in a lower lane (or runs in bulk, which others overtake).
local function leader_of(pool, lane, tenant, sum)
  local leader = redis.call('GET', K.coalesce(tenant, sum))
  if not leader then return nil end
  local s = read(K.job(leader), {'state', 'cancel', 'pool', 'lane'})
  local under_way = s.state == 'running' and not s.cancel and (s.lane ~= 'bulk' or lane == 'bulk')
  for _, name in ipairs(LANES) do
    if name == s.lane then under_way = under_way or s.state == 'queued' end
    if name == lane then break end
  end
  if not under_way or s.pool ~= pool or redis.call('SCARD', K.followers(leader)) >= FOLLOWERS then return nil end
  return leader, s.state
end

local function tenant_waits(pool, tenant)
  local waiting = 0
  for _, lane in ipairs(LANES) do
    waiting = waiting + redis.call('ZCARD', K.backlog(pool, lane, tenant))
      + (number(redis.call('HGET', K.attached(pool), lane .. ' ' .. tenant)) or 0)
  end
  return waiting
end

define('accept', function(a, blobs)
  local id, pool, lane, tenant, now = a.id, a.pool, a.lane, a.tenant, now_ms()
  local room = a.idem_tenant or tenant -- of idempotency keys
  local created = redis.call('HGET', K.job(id), 'created')
  if created then return with_rates(tenant, {kind = 'accepted', id = id, at = tonumber(created)}) end -- the client library sent the call twice
  if a.idem then
    local known = redis.call('GET', K.idem('jobs', room, a.idem))
    local old, digest = string.match(known or '', '(%S+) (%S+)')
    local o = old and read(K.job(old), {'created', 'tenant', 'batch', 'in_queue'}) or {}
    local mine = owns_job(a, o) -- else an admin of this tenant used the key to retry another's job
    if o.created and (digest ~= a.digest or not mine) then return {kind = 'conflict', id = mine and old or nil} end
    -- A call whose job did not start in time was told to retry. The retry is a job of its own, else it would get that refusal again.
    local free = a.live and o.in_queue
    if o.created and not free then return with_rates(tenant, {kind = 'same', id = old, at = tonumber(o.created)}) end
  end
  -- After a stall the server meets submissions that were sent long ago, and whose clients were told that they failed.
  if a.not_after and now > a.not_after then return {kind = 'late', at = now} end

  -- A job is retried once. A further retry is a retry of the job that retried it.
  if a.retry_of then
    local old = read(K.job(a.retry_of), {'state', 'finished', 'retried_as', 'tenant', 'batch'})
    if not owns_job(a, old) then return {kind = 'gone', id = a.retry_of} end
    if not old.finished then return {kind = old.state and 'unfinished' or 'gone', id = a.retry_of} end
    local since = old.retried_as and redis.call('HGET', K.job(old.retried_as), 'created')
    if since then return {kind = 'same', id = old.retried_as, at = tonumber(since)} end
  end

  local refused = a.conversation and refuse_conversation(a)
  if refused then return refused end
  local p = redis.call('HMGET', K.pool(pool), 'depth:' .. lane, 'attached:' .. lane, 'forward')
  if p[3] then
    pool = home_of(pool)
    p = redis.call('HMGET', K.pool(pool), 'depth:' .. lane, 'attached:' .. lane)
  end
  local depth = (number(p[1]) or 0) + (number(p[2]) or 0)
  local rejects = a.reject and lane ~= 'bulk' and not a.batch
  -- A job that finds a free slot is still in the lane for a moment, and does not count as waiting.
  if depth >= a.queue_max and not rejects and depth - free_slots(pool, lane) >= a.queue_max then return {kind = 'full', count = depth} end
  local queue_max = limit_of(tenant, 'queue_max') or a.tenant_queue_max
  if queue_max then
    local waiting = tenant_waits(pool, tenant)
    -- Chunks leave half of it to the tenant's own jobs.
    if waiting >= (a.batch and queue_max / 2 or queue_max) then return {kind = 'tenant_full', count = waiting} end
  end
  if rejects then
    local busy, active = is_busy(pool, lane, tenant)
    if busy then return {kind = 'busy', count = active} end
  end
  local leader, leads
  -- Followers would lose the result that they share: such a job goes before its time, or by a client's word.
  local coalesce = not (a.keep_ms or a.conversation or a.listed) and a.coalesce
  if coalesce then leader, leads = leader_of(pool, lane, tenant, coalesce) end

  -- A quota reserves what the job may use; its turn costs what it will likely use. Chunks are not requests: their rows count as they run.
  local limited = not a.batch and has_quota(tenant_record(tenant))
  local in_tokens = not limit('turns_in_jobs')
  local mean = (in_tokens or limited) and mean_of(pool, tenant, a.model)
  local cost = in_tokens and whole_tokens(a.tokens + a.rows * math.min(mean, a.most_tokens or mean)) or nil
  local reserved, take
  if limited then
    reserved = leader and 0 or whole_tokens(a.tokens + a.rows * (a.most_tokens or mean)) -- who follows a job uses nothing
    local refusal
    take, refusal = ask_quota(tenant, reserved)
    if refusal then return refusal end
  end
  local job = K.job(id)
  local fields = {state = 'queued', pool = pool, lane = lane, tenant = tenant, created = now, facts = blobs[1], req = blobs[2], cost = cost,
    stream = a.stream and 1, batch = a.batch, key = a.key, affinity = a.affinity, leader = leader, reserved = reserved,
    keep = a.keep_ms, once = a.once and 1, conversation = a.conversation, taken = a.conversation_parts,
    webhook = a.webhook or a.live and limit('webhooks') and TO_NOBODY or nil}
  if a.conversation then enter_conversation(id, a) end
  -- The process that submits a streamed job gets its events from the start; for any other job it gets the end alone.
  if a.sink then fields[a.stream and 'sinks' or 'waiter'] = a.sink end
  if a.retry_of then
    redis.call('HSET', K.job(a.retry_of), 'retried_as', id)
    redis.call('ZREM', K.dead(), a.retry_of)
    redis.call('ZREM', K.dead_of(tenant), a.retry_of)
    audit_of_another(a, tenant, 'job.retry', 'job ' .. a.retry_of, {retried_as = id})
  end
  if a.expires_in_ms then fields.exp = now + a.expires_in_ms end
  if a.queue_timeout_ms and leads ~= 'running' then fields.qexp = now + a.queue_timeout_ms end
  local deadline = math.min(fields.exp or math.huge, fields.qexp or math.huge)
  if deadline < math.huge then redis.call('ZADD', K.deadlines(), exactly(deadline), id) end
  if a.idem then redis.call('SET', K.idem('jobs', room, a.idem), id .. ' ' .. a.digest, 'PX', exactly(a.retention_ms)) end
  redis.call('ZADD', K.jobs(), exactly(now), id)
  if not a.batch then redis.call('ZADD', K.jobs_of(tenant), exactly(now), id) end
  if a.listed then redis.call('ZADD', K.chats_of(tenant), exactly(now), id) end
  if leader then
    redis.call('SADD', K.followers(leader), id)
  elseif coalesce then
    fields.coalesce = coalesce
    redis.call('SET', K.coalesce(tenant, coalesce), id)
  end
  write(job, fields)
  keep_objects(id, a.objects)
  if not p[1] then redis.call('SADD', K.pools(), pool) end
  if leads == 'running' then
    count_attached(pool, lane, tenant, 1)
  else
    enqueue(pool, lane, tenant, id, cost or 1, a.affinity)
  end
  publish_state(id, a.stream, nil, '0-1', 'queued', 0)
  local answer = {kind = 'accepted', id = id, at = now}
  return take and with_rates(tenant, answer, take) or answer
end)
