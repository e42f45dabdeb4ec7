-- Files' records. Their bytes are in storage; the sweeper deletes what is in the trash.
define('file_create', function(a)
  local id, file, now = a.id, K.file(a.id), now_ms()
  if redis.call('EXISTS', file) == 1 then return {kind = 'created', id = id} end -- the client library sent the call twice
  local before = made_before('files', K.file, a)
  if before then return before end
  local refusal = count_held(a.tenant, 'bytes', a.size, a.bounded and 'storage_max')
  if refusal then return refusal end
  note_idem('files', a)
  local expires = a.expires_after_ms and now + a.expires_after_ms
  write(file, {id = id, tenant = a.tenant, purpose = a.purpose, created = now, bytes = a.size, filename = a.filename, key = a.key, users = 0, expires = expires,
    counted = 1})
  if expires then redis.call('ZADD', K.files_expiry(), exactly(expires), id) end
  redis.call('ZADD', K.files(), exactly(now), id)
  for _, index in ipairs({K.files_by_purpose(a.purpose), K.files_of(a.tenant), K.files_of_purpose(a.tenant, a.purpose)}) do
    redis.call('ZADD', index, exactly(now), id)
  end
  redis.call('ZREM', K.files_announced(), id .. ' ' .. a.key)
  redis.call('SREM', K.files_trash(), a.key)
  return {kind = 'created', id = id}
end)

define('file_delete', function(a)
  local id = a.id
  local f = read(K.file(id), {'key', 'purpose', 'users', 'expires', 'tenant', 'bytes', 'counted'})
  if not owns(a, f.tenant) then return 'gone' end
  if not f.key then
    redis.call('ZREM', K.files_expiry(), id)
    return 'gone'
  end
  if tonumber(f.users or 0) > 0 then return 'busy' end
  if a.only_if_expired and not (f.expires and tonumber(f.expires) <= now_ms()) then return 'kept' end
  redis.call('SADD', K.files_trash(), f.key)
  local tenant, score = f.tenant or 'default', redis.call('ZSCORE', K.files(), id) or 0
  for _, name in ipairs({id, tenant .. ':' .. id}) do redis.call('SET', K.file_was(name), score, 'PX', 3600000) end
  for _, index in ipairs({K.files(), K.files_by_purpose(f.purpose), K.files_of(tenant), K.files_of_purpose(tenant, f.purpose), K.files_expiry()}) do
    redis.call('ZREM', index, id)
  end
  redis.call('DEL', K.file(id))
  if f.counted then count_held(f.tenant, 'bytes', -f.bytes) end
  audit_of_another(a, f.tenant, 'file.delete', 'file ' .. id)
  return 'deleted'
end)

define('file_orphans', function(a)
  local keys, before = {}, now_ms() - a.age_ms
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', K.files_announced(), '-inf', before, 'LIMIT', 0, a.most)) do
    local id, key = string.match(entry, '(%S+) (%S+)')
    local kept = redis.call('HGET', K.objects(), id) or ''
    if redis.call('EXISTS', K.file(id)) == 0 and not string.find(' ' .. kept .. ' ', ' ' .. key .. ' ', 1, true) then
      redis.call('SADD', K.files_trash(), key)
      keys[#keys + 1] = key
    end
    redis.call('ZREM', K.files_announced(), entry)
  end
  return keys
end)

define('page_of_ids', function(a)
  local first, all, index, was = 0, nil, nil, a.after
  if a.owner then
    all = K[a.room .. '_of'](a.owner)
    index = a.purpose and K.files_of_purpose(a.owner, a.purpose) or all
    was = a.owner .. ':' .. (a.after or '')
  else
    all = K[a.room]()
    index = a.purpose and K.files_by_purpose(a.purpose) or all
  end
  if a.after then
    local before, there = redis.call('ZRANK', index, a.after), 1
    if not before then -- it was deleted, or has another purpose: count what was before its place
      local score = redis.call('ZSCORE', all, a.after) or redis.call('GET', K.file_was(was)) or exactly(a.made_ms)
      before, there = redis.call('ZCOUNT', index, '-inf', '(' .. score), 0
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', index, score, score)) do
        if id < a.after then before = before + 1 end
      end
    end
    first = a.newest_first and redis.call('ZCARD', index) - before or before + there
  end
  return redis.call(a.newest_first and 'ZREVRANGE' or 'ZRANGE', index, first, first + a.most - 1)
end)
