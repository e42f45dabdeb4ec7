#!lua flags=allow-oom
-- Move a batch to another status, or (from = to) write fields into it, by the process that has its lease.
-- ARGV: id token from to ends('1'|'0': to is terminal) retention_ms parts_retention_ms (field value)...   A value of '' removes the field.
-- Returns 1, or 0 if the lease or the status is another.
local id, from, to = ARGV[1], ARGV[3], ARGV[4]
local batch = K.batch(id)
local status = redis.call('HGET', batch, 'status')
if not status or redis.call('GET', K.batch_lease(id)) ~= ARGV[2] then return 0 end
if status ~= from then return status == to and 1 or 0 end -- the client library sent the script twice
local now = now_ms()
for i = 8, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', batch, ARGV[i]) else redis.call('HSET', batch, ARGV[i], ARGV[i + 1]) end
end
if from == to then return 1 end
redis.call('HSET', batch, 'status', to, to .. '_at', now)
if ARGV[5] == '1' then
  local retention = tonumber(ARGV[6])
  redis.call('HSET', batch, 'ended', now)
  redis.call('HDEL', batch, 'paused', 'hold', 'closing')
  redis.call('SREM', K.batches_active(), id)
  redis.call('ZADD', K.batches_retire(), now + retention, id)
  redis.call('ZADD', K.batches_parts(), now + tonumber(ARGV[7]), id)
  redis.call('PEXPIRE', batch, retention)
  redis.call('PEXPIRE', K.batch_done(id), retention)
  redis.call('DEL', K.batch_open(id))
  local input = redis.call('HGET', batch, 'input_file_id')
  if redis.call('EXISTS', K.file(input)) == 1 then redis.call('HINCRBY', K.file(input), 'users', -1) end
end
return 1
