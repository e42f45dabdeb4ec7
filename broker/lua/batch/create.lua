#!lua
-- Create a batch's record over a file, or find it by its idempotency key or as the retry of retry_of.
-- ARGV: id input_file_id idem|'' digest idem_ttl_ms window_ms retry_of|'' (field value)...
-- Returns {'created'|'same'|'conflict', id} | {'no_file'} | {'purpose', purpose} | {'gone'} | {'unfinished'}
local id, input, idem, digest, retry_of = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local now = now_ms()
if redis.call('EXISTS', K.batch(id)) == 1 then return {'created', id} end -- the client library sent the script twice
if idem ~= '' then
  local known = redis.call('GET', K.idem('batches', idem))
  if known then
    local old, old_digest = string.match(known, '(%S+) (%S+)')
    if redis.call('EXISTS', K.batch(old)) == 1 then return {old_digest == digest and 'same' or 'conflict', old} end
  end
end
if retry_of ~= '' then
  local old = redis.call('HMGET', K.batch(retry_of), 'status', 'ended', 'retried_as')
  if not old[1] then return {'gone'} end
  if not old[2] then return {'unfinished'} end
  if old[3] and redis.call('EXISTS', K.batch(old[3])) == 1 then return {'same', old[3]} end
end
local purpose = redis.call('HGET', K.file(input), 'purpose')
if not purpose then return {'no_file'} end
if purpose ~= 'batch' then return {'purpose', purpose} end
if idem ~= '' then redis.call('SET', K.idem('batches', idem), id .. ' ' .. digest, 'PX', ARGV[5]) end
if retry_of ~= '' then redis.call('HSET', K.batch(retry_of), 'retried_as', id) end
redis.call('HINCRBY', K.file(input), 'users', 1)
redis.call('HSET', K.batch(id), 'id', id, 'input_file_id', input, 'status', 'validating', 'created', now,
  'expires', now + tonumber(ARGV[6]), 'retry_of', retry_of, unpack(ARGV, 8))
redis.call('ZADD', K.batches(), now, id)
redis.call('SADD', K.batches_active(), id)
ring(id)
return {'created', id}
