-- Create a job's record and push its Celery message: all or nothing.
-- ARGV: id pool lane endpoint model body stream meta tenant max_attempts expires_in_ms|'' idem|'' digest sink|'' queue_max
--       retention_ms schema_version earlier_queue...
-- Returns {'accepted'|'same', id, created, position} | {'conflict', id} | {'full', depth}
local id, pool, lane, endpoint, model = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stream, tenant, idem, digest, sink = ARGV[7], ARGV[9], ARGV[12], ARGV[13], ARGV[14]
local retention = tonumber(ARGV[16])
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

local depth = redis.call('ZCARD', K.queued(queue))
if depth >= tonumber(ARGV[15]) then return {'full', depth} end
local position = depth
for i = 18, #ARGV do position = position + redis.call('ZCARD', K.queued(ARGV[i])) end

local failed = push(id, queue, false)
if failed then return failed end
redis.call('HSET', K.job(id), 'v', ARGV[17], 'id', id, 'state', 'queued', 'pool', pool, 'lane', lane, 'queue', queue,
  'endpoint', endpoint, 'model', model, 'tenant', tenant, 'stream', stream, 'meta', ARGV[8], 'created', now, 'entered', now,
  'attempt', 0, 'losses', 0, 'max', ARGV[10], 'req', ARGV[6])
-- Who submits a streamed job follows it from the start; who waits for any other wants its end alone.
if sink ~= '' then redis.call('HSET', K.job(id), stream == '1' and 'sinks' or 'waiter', sink) end
if ARGV[11] ~= '' then
  local deadline = now + tonumber(ARGV[11])
  redis.call('HSET', K.job(id), 'exp', deadline)
  redis.call('ZADD', K.deadlines(), deadline, id)
end
if idem ~= '' then redis.call('SET', K.idem(tenant, idem), id .. ' ' .. digest, 'PX', retention) end
redis.call('SADD', K.queues(), queue)
redis.call('ZADD', K.queued(queue), now, id)
redis.call('ZADD', K.jobs(), now, id)
redis.call('ZADD', K.by_state('queued'), now, id)
redis.call('ZADD', K.by_model(model), now, id)
say_state(id, stream, nil, '0-1', 'queued', 0)
return {'accepted', id, now, position}
