#!lua
-- Create a job's record and push its Celery message: all or nothing.
-- ARGV: id pool lane endpoint model body stream meta tenant max_attempts expires_in_ms|'' idem|'' digest sink|'' queue_max
--       retention_ms schema_version timeout_ms|'' queue_timeout_ms|'' retry_of|'' not_after_ms|'' earlier_queue...
-- Returns {'accepted'|'same', id, created, position} | {'conflict', id} | {'full', depth} | {'unfinished', id} | {'gone', id}
--       | {'late', now}
local id, pool, lane, endpoint, model = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stream, tenant, idem, digest, sink = ARGV[7], ARGV[9], ARGV[12], ARGV[13], ARGV[14]
local retention = tonumber(ARGV[16])
local timeout, queue_timeout, retry_of = ARGV[18], ARGV[19], ARGV[20]
local queue = K.queue(pool, lane)
local now = now_ms()

if idem ~= '' then
  local known = redis.call('GET', K.idem(tenant, idem))
  if known then
    local old, old_digest = string.match(known, '(%S+) (%S+)')
    local created = redis.call('HGET', K.job(old), 'created')
    if created then
      if old_digest ~= digest then return {'conflict', old} end
      return {'same', old, tonumber(created), -1}
    end
  end
end
local created = redis.call('HGET', K.job(id), 'created')
if created then return {'accepted', id, tonumber(created), -1} end -- the client library sent the script twice
-- A server that stalled meets what was sent to it long ago, and whose client has been told that it failed.
if ARGV[21] ~= '' and now > tonumber(ARGV[21]) then return {'late', now} end

-- A job is repeated once, by whomever; who wants another repetition repeats that one.
if retry_of ~= '' then
  local old = redis.call('HMGET', K.job(retry_of), 'finished', 'retried_as')
  if not old[1] then return {redis.call('EXISTS', K.job(retry_of)) == 1 and 'unfinished' or 'gone', retry_of} end
  local since = old[2] and redis.call('HGET', K.job(old[2]), 'created')
  if since then return {'same', old[2], tonumber(since), -1} end
end

local depth = redis.call('ZCARD', K.queued(queue))
if depth >= tonumber(ARGV[15]) then return {'full', depth} end
local position = depth
for i = 22, #ARGV do position = position + redis.call('ZCARD', K.queued(ARGV[i])) end

local failed = push(id, queue, false)
if failed then return failed end
redis.call('HSET', K.job(id), 'v', ARGV[17], 'id', id, 'state', 'queued', 'pool', pool, 'lane', lane, 'queue', queue,
  'endpoint', endpoint, 'model', model, 'tenant', tenant, 'stream', stream, 'meta', ARGV[8], 'created', now, 'entered', now,
  'attempt', 0, 'losses', 0, 'max', ARGV[10], 'req', ARGV[6])
-- Who submits a streamed job follows it from the start; who waits for any other wants its end alone.
if sink ~= '' then redis.call('HSET', K.job(id), stream == '1' and 'sinks' or 'waiter', sink) end
if timeout ~= '' then redis.call('HSET', K.job(id), 'timeout', timeout) end
if retry_of ~= '' then
  redis.call('HSET', K.job(id), 'retry_of', retry_of)
  redis.call('HSET', K.job(retry_of), 'retried_as', id)
  redis.call('ZREM', K.dead(), retry_of)
end
local deadline = math.huge
if ARGV[11] ~= '' then
  deadline = now + tonumber(ARGV[11])
  redis.call('HSET', K.job(id), 'exp', deadline)
end
if queue_timeout ~= '' then
  local start_by = now + tonumber(queue_timeout)
  redis.call('HSET', K.job(id), 'qtimeout', queue_timeout, 'qexp', start_by)
  deadline = math.min(deadline, start_by)
end
if deadline < math.huge then redis.call('ZADD', K.deadlines(), deadline, id) end
if idem ~= '' then redis.call('SET', K.idem(tenant, idem), id .. ' ' .. digest, 'PX', retention) end
redis.call('SADD', K.queues(), queue)
redis.call('ZADD', K.queued(queue), now, id)
redis.call('ZADD', K.jobs(), now, id)
redis.call('ZADD', K.by_state('queued'), now, id)
redis.call('ZADD', K.by_model(model), now, id)
say_state(id, stream, nil, '0-1', 'queued', 0)
return {'accepted', id, now, position}
