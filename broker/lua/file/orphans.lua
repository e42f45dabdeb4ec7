#!lua flags=allow-oom
-- Put the objects that were announced long ago and have no record into the trash.
-- ARGV: age_ms limit
-- Returns their keys.
local keys = {}
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', K.files_announced(), '-inf', now_ms() - tonumber(ARGV[1]), 'LIMIT', 0, ARGV[2])) do
  local id, key = string.match(entry, '(%S+) (%S+)')
  if redis.call('EXISTS', K.file(id)) == 0 then
    redis.call('SADD', K.files_trash(), key)
    keys[#keys + 1] = key
  end
  redis.call('ZREM', K.files_announced(), entry)
end
return keys
