-- Work for a worker that asks for it: the pop is the claim.
local HEAD = {'state', 'tenant', 'created', 'attempt', 'cost', 'stream', 'batch', 'sinks', 'exp', 'qexp', 'v', 'affinity', 'leader', 'coalesce',
  'kills', 'releases', 'back', 'paid'}
local READ = {'facts', 'req'}
for i = 1, #HEAD do READ[i + 2] = HEAD[i] end

local CLAIMED = {'state', 'claim', 'attempt', 'lane', 'tenant', 'created', 'started', 'back', 'kills', 'releases', 'stream', 'exp', 'facts', 'req'}

-- How many jobs of a lane's first backlog, and how many tenants, are passed over for jobs that this worker may take; how many jobs of a
-- tenant, for one whose prefix it ran. PASSED_CHUNK: what a chunk counts of them, as several of one batch wait one behind the other, and
-- its tenant's own calls behind them. LEFT_MS: for so long a job is left to the worker that ran its prefix.
local LOOK_AHEAD = 8
local PASSED_CHUNK = 1 / 8
local LEFT_MS = 25

-- For so long those who pass over a job ring for others. All with room ask once a second anyway, and if none may take it (a suspect, while
-- each has one; a record of a later version), each that rings would wake the next without end.
local RUNG_MS = 1000

-- Bytes of requests after which an answer has no further job.
local MOST_BYTES = 8388608

-- Whether this worker takes the job: 'take', 'later' (it stays where it is, for others), or 'gone' (it has left its place).
local function judge(c, lane, id, j)
  local now = now_ms()
  local waited = math.abs(now - tonumber(j.back or j.created)) -- the clock may have been set back
  if tonumber(j.v or 0) > c.a.version or j.kills and c.suspects <= 0 or j.batch and not c.chunks then
    c.passed, c.left = true, c.left or waited < RUNG_MS
    return 'later'
  end
  if j.affinity and lane ~= 'bulk' and waited < LEFT_MS then
    local warm = warm_worker(c.pool, j.affinity)
    if warm and warm ~= c.a.worker then
      c.passed, c.ask_again = true, math.min(c.ask_again or LEFT_MS, LEFT_MS - waited)
      return 'later'
    end
  end
  local late = j.exp and tonumber(j.exp) <= now
  local over = late or j.qexp and tonumber(j.qexp) <= now
  if j.leader then
    if not over and redis.call('HGET', K.job(j.leader), 'state') == 'running' then
      count_attached(c.pool, lane, j.tenant, 1)
      return 'gone'
    end
    redis.call('HDEL', K.job(id), 'leader')
    redis.call('SREM', K.followers(j.leader), id)
  end
  if not over then return 'take' end
  c.ended[#c.ended + 1] = {id, not late and 1 or nil}
  return 'gone'
end

-- Add a running job to an answer.
local function tell(jobs, blobs, id, j)
  local started, created = tonumber(j.started), tonumber(j.created)
  jobs[#jobs + 1] = {id = id, attempt = tonumber(j.attempt), lane = j.lane, tenant = j.tenant, kills = number(j.kills), releases = number(j.releases),
    stream = j.stream and true, leads = j.coalesce and true, waited_ms = started - tonumber(j.back or created), age_ms = started - created,
    left_ms = j.exp and tonumber(j.exp) - now_ms()}
  blobs[#blobs + 1] = j.facts
  blobs[#blobs + 1] = j.req
end

-- Read a job of a backlog; after one was passed over without its bodies, which may be long, and which `start` reads then.
local function next_job(c, id) return read(K.job(id), c.passed and HEAD or READ, redis.pcall) end

-- queued -> running. The job has left its backlog.
local function start(c, lane, id, j)
  local a, now, job = c.a, now_ms(), K.job(id)
  local attempt = (number(j.attempt) or 0) + 1
  if not j.req then
    local bodies = read(job, {'facts', 'req'})
    j.facts, j.req = bodies.facts, bodies.req
  end
  redis.call('HSET', job, 'state', ON.claim.queued, 'worker', a.worker, 'started', exactly(now), 'attempt', attempt, 'claim', a.token)
  if j.qexp then start_in_time(id, j.exp) end
  if j.coalesce then -- its followers have started with it
    for _, follower in ipairs(redis.call('SMEMBERS', K.followers(id))) do
      local f = read(K.job(follower), {'qexp', 'exp'})
      if f.qexp then start_in_time(follower, f.exp) end
    end
  end
  if j.affinity then redis.call('SET', K.affinity(c.pool, j.affinity), a.worker, 'PX', 600000) end
  publish_state(id, j.stream, j.sinks, attempt .. '-0', ON.claim.queued, attempt, a.worker)
  if j.kills then c.suspects = c.suspects - 1 end
  c.active[j.tenant] = (c.active[j.tenant] or 0) + 1
  c.counts.active = c.counts.active + 1
  if lane == 'bulk' then
    c.active_bulk[j.tenant] = (c.active_bulk[j.tenant] or 0) + 1
    c.counts.bulk = c.counts.bulk + 1
    c.bulk_room = c.bulk_room - 1
  end
  c.bytes = c.bytes + #j.req
  c.room = (j.batch or c.bytes > MOST_BYTES) and 0 or c.room - 1 -- a chunk brings many rows
  c.ids[#c.ids + 1] = id
  j.attempt, j.lane, j.started = attempt, lane, now
  tell(c.jobs, c.blobs, id, j)
end

-- Whether a tenant's bound allows no more, beside those that it got in this call.
local function is_bounded(c, lane, tenant)
  return at_bound(c.pool, lane, tenant, c.active[tenant] or 0, c.active_bulk[tenant] or 0)
end

-- Take the first job of the lane's first backlog that this worker may take. Returns whether there was one.
local function take_first(c, lane)
  local first, taken = K.backlog(c.pool, lane, FIRST), false
  for _, id in ipairs(redis.call('ZRANGE', first, 0, LOOK_AHEAD - 1)) do
    local j = next_job(c, id)
    if j.state == 'queued' and is_bounded(c, lane, j.tenant) then -- it becomes the first of its tenant's
      redis.call('ZREM', first, id)
      c.left = true -- there may be more of them than are looked at
      if not put_ahead(c.pool, lane, j.tenant, id, 0) then
        join(c.pool, lane, j.tenant, id, 0, number(redis.call('HGET', K.tags(c.pool, lane), j.tenant)), c.counts['v:' .. lane])
      end
    else
      local verdict = j.state == 'queued' and judge(c, lane, id, j) or 'gone'
      if verdict ~= 'later' then
        redis.call('ZREM', first, id)
        c.counts['depth:' .. lane] = c.counts['depth:' .. lane] - 1
        if verdict == 'take' then start(c, lane, id, j) end
        taken = true
        break
      end
    end
  end
  if redis.call('EXISTS', first) == 0 then redis.call('ZREM', K.turns(c.pool, lane), FIRST) end
  return taken
end

-- The tenant whose turn it is gives its next job that this worker may take. Returns nil; without such a job, how many it passed over.
local function take_turn(c, lane, tenant, turn)
  local backlog = K.backlog(c.pool, lane, tenant)
  local popped = redis.call('ZPOPMIN', backlog)
  local at, passed = 0, nil
  while popped[1] do
    local id = popped[1]
    local j = next_job(c, id)
    local verdict = j.state == 'queued' and judge(c, lane, id, j) or 'gone'
    if verdict ~= 'later' then
      local counts, depth = c.counts, 'depth:' .. lane
      counts[depth] = counts[depth] - 1
      counts['v:' .. lane] = math.max(counts['v:' .. lane], turn)
      local following, step = turn, step_of(tenant, unpaid(j))
      if verdict == 'take' then
        following = turn + step
        start(c, lane, id, j)
      end
      if passed then -- they move up, as in close_gap
        for i = 1, #passed, 2 do passed[i] = exactly(passed[i] + step) end
        redis.call('ZADD', backlog, unpack(passed))
      end
      if counts[depth] <= 0 then
        redis.call('ZREM', K.turns(c.pool, lane), tenant)
      elseif redis.call('EXISTS', backlog) == 0 then
        leave_turns(c.pool, lane, tenant, following)
      elseif following ~= turn then
        redis.call('ZADD', K.turns(c.pool, lane), exactly(following), tenant)
      end
      return nil
    end
    passed = passed or {}
    passed[#passed + 1] = popped[2]
    passed[#passed + 1] = id
    at = at + (j.batch and PASSED_CHUNK or 1)
    popped = at < LOOK_AHEAD and redis.call('ZPOPMIN', backlog) or {}
  end
  if not passed then
    leave_turns(c.pool, lane, tenant, turn)
    return nil
  end
  redis.call('ZADD', backlog, unpack(passed))
  return at
end

local function take_from(c, lane)
  local at, passed = 0, 0 -- tenants that have nothing for this worker; those who only wait with chunks count less
  while c.room > 0 and passed < LOOK_AHEAD and c.counts['depth:' .. lane] > 0 do
    if lane == 'bulk' and c.bulk_room <= 0 then return end
    local most = limit('max_active')
    if most and not fits(lane, most, c.counts.active, c.counts.bulk) then return end
    local head = redis.call('ZRANGE', K.turns(c.pool, lane), at, at, 'WITHSCORES')
    local tenant, turn = head[1], number(head[2])
    if not tenant or turn == math.huge then return end
    if tenant == FIRST then
      if not take_first(c, lane) and redis.call('ZSCORE', K.turns(c.pool, lane), FIRST) then at, passed = at + 1, passed + 1 end
    elseif is_bounded(c, lane, tenant) then
      park(c.pool, lane, tenant, turn)
    else
      local over = take_turn(c, lane, tenant, turn)
      if over then at, passed = at + 1, passed + math.min(1, over) end
    end
  end
end

-- The jobs of an earlier call whose answer was lost.
local function claimed_before(a)
  local jobs, blobs = {}, {}
  for _, id in ipairs(redis.call('SMEMBERS', K.worker_jobs(a.worker))) do
    local j = read(K.job(id), CLAIMED)
    if j.state == 'running' and j.claim == a.token then tell(jobs, blobs, id, j) end
  end
  return {jobs = jobs}, blobs
end

define('claim', function(a)
  if a.again then
    local answer, blobs = claimed_before(a)
    if answer.jobs[1] then return answer, blobs end
  end
  local lease = redis.call('ZSCORE', K.leases(), a.worker)
  if not lease or tonumber(lease) < now_ms() then
    ring_all(a.pool) -- for whoever may claim: the bell may have rung for this worker
    return {fenced = true}
  end
  local p = read(K.pool(a.pool), POOL)
  local c = {a = a, pool = a.pool, room = a.room, bulk_room = a.bulk_room, suspects = a.suspects, counts = {}, active = {}, active_bulk = {},
    jobs = {}, ids = {}, blobs = {}, ended = {}, bytes = 0}
  if p.paused then return {jobs = {}} end
  for _, field in ipairs(POOL) do c.counts[field] = number(p[field]) or 0 end
  c.counts.paused = nil
  local changed = {}
  for place, lane in ipairs(LANES) do
    local depth, v = 'depth:' .. lane, 'v:' .. lane
    c.chunks = place <= a.chunk_lanes or lane == 'bulk' -- bulk_room is the room for those of bulk
    local before = c.counts[depth]
    if before > 0 and c.room > 0 then
      take_from(c, lane)
      if c.counts[depth] < before then
        if c.counts[depth] <= 0 then -- no turn is known any more
          redis.call('DEL', K.tags(a.pool, lane))
          c.counts[v] = 0
        end
        changed[depth], changed[v] = c.counts[depth], exactly(c.counts[v])
      end
    end
  end
  if c.ids[1] then
    changed.active, changed.bulk = c.counts.active, c.counts.bulk
    redis.call('SADD', K.worker_jobs(a.worker), unpack(c.ids))
    for tenant, n in pairs(c.active) do redis.call('HINCRBY', K.active(a.pool), tenant, n) end
    for tenant, n in pairs(c.active_bulk) do redis.call('HINCRBY', K.active_bulk(a.pool), tenant, n) end
  end
  write(K.pool(a.pool), changed)
  for _, late in ipairs(c.ended) do
    end_job(late[1], read(K.job(late[1]), JOB), ON.expire.queued, a.retention_ms, {in_queue = late[2]})
  end
  -- Ring on: others may sleep, and take what is left. If nothing is, a bell that rang for what was taken here would wake one for nothing.
  local waits, bulk_waits = 0, c.counts['depth:bulk'] > 0
  for i = 1, #LANES - 1 do waits = waits + c.counts['depth:' .. LANES[i]] end
  if c.ids[1] or c.left then
    if waits > 0 then ring(a.pool, 'normal') else redis.call('DEL', K.bell(a.pool)) end
  end
  if not bulk_waits then
    if next(c.active_bulk) then redis.call('DEL', K.bulk_bell(a.pool)) end
  elseif c.ids[1] or c.left or a.bulk_room <= 0 then
    ring(a.pool, 'bulk')
  end
  return {jobs = c.jobs, ask_again_ms = c.ask_again, left = (waits > 0 or bulk_waits) or nil}, c.blobs
end)
