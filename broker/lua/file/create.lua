#!lua
-- Record a file whose bytes are in storage, or find it by its idempotency key.
-- ARGV: id purpose idem|'' digest idem_ttl_ms expires_after_ms|'' (field value)...
-- Returns {'created'|'same'|'conflict', id}
local id, purpose, idem, digest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = now_ms()
if redis.call('EXISTS', K.file(id)) == 1 then return {'created', id} end -- the client library sent the script twice
if idem ~= '' then
  local known = redis.call('GET', K.idem('files', idem))
  if known then
    local old, old_digest = string.match(known, '(%S+) (%S+)')
    if redis.call('EXISTS', K.file(old)) == 1 then return {old_digest == digest and 'same' or 'conflict', old} end
  end
  redis.call('SET', K.idem('files', idem), id .. ' ' .. digest, 'PX', ARGV[5])
end
redis.call('HSET', K.file(id), 'id', id, 'purpose', purpose, 'created', now, unpack(ARGV, 7))
if ARGV[6] ~= '' then
  local expires = now + tonumber(ARGV[6])
  redis.call('HSET', K.file(id), 'expires', expires)
  redis.call('ZADD', K.files_expiry(), expires, id)
end
redis.call('ZADD', K.files(), now, id)
redis.call('ZADD', K.files_by_purpose(purpose), now, id)
local key = redis.call('HGET', K.file(id), 'key')
redis.call('ZREM', K.files_announced(), id .. ' ' .. key)
redis.call('SREM', K.files_trash(), key)
return {'created', id}
