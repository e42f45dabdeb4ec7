-- API keys. A record (K.key) has the digest of its secret, and after a rotation the older secret's (digest2), which is right until until2; tenant;
-- scopes, as words; models, as JSON (none: all of its tenant's); name; created, expires, used (to five minutes); state: active or revoked.

local function make_key(id, k)
  local now = now_ms()
  write(K.key(id), {digest = k.digest, tenant = k.tenant, scopes = k.scopes, models = k.models, name = k.name, created = now,
    expires = k.expires_in_ms and now + k.expires_in_ms, state = 'active'})
  redis.call('ZADD', K.api_keys(), exactly(now), id)
  redis.call('ZADD', K.keys_of(k.tenant), exactly(now), id)
end

-- Answers false if another key has the id.
define('key_create', function(a)
  local digest = redis.call('HGET', K.key(a.id), 'digest')
  if digest then return digest == a.digest end -- the client library sent the call twice
  make_key(a.id, a)
  access_changed()
  audit(a, 'key.create', 'key ' .. a.id, {tenant = a.tenant, scopes = a.scopes})
  return true
end)

define('key_rotate', function(a)
  local key, now = K.key(a.id), now_ms()
  local k = read(key, {'digest', 'state', 'expires', 'tenant'})
  if not k.state then return 'gone' end
  if k.digest == a.digest then return 'rotated' end -- the client library sent the call twice
  if k.state ~= 'active' or (k.expires and tonumber(k.expires) <= now) then return 'inactive' end
  redis.call('HDEL', key, 'digest2', 'until2')
  write(key, {digest = a.digest, digest2 = a.overlap_ms > 0 and k.digest or nil, until2 = a.overlap_ms > 0 and now + a.overlap_ms or nil})
  access_changed()
  audit(a, 'key.rotate', 'key ' .. a.id, {tenant = k.tenant, overlap_ms = a.overlap_ms})
  return 'rotated'
end)

define('key_revoke', function(a)
  local k = read(K.key(a.id), {'state', 'tenant'})
  if k.state ~= 'active' then return k.state ~= nil end
  redis.call('HSET', K.key(a.id), 'state', 'revoked')
  redis.call('HDEL', K.key(a.id), 'digest2', 'until2')
  access_changed()
  audit(a, 'key.revoke', 'key ' .. a.id, {tenant = k.tenant})
  return true
end)

-- The fields of a hash by name; nil: there is none.
local function whole(key)
  local flat, named = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do named[flat[i]] = flat[i + 1] end
  return flat[1] and named
end

-- What an api process needs to judge a key, with times from now on, and to know its tenant.
define('key_find', function(a)
  local now, version = now_ms(), number(redis.call('HGET', K.access(), 'version')) or 0
  local k = read(K.key(a.id), {'digest', 'digest2', 'until2', 'tenant', 'scopes', 'models', 'expires', 'used', 'state'})
  if not k.state then return {version = version} end
  return {version = version, digest = k.digest, digest2 = k.digest2, digest2_ms = k.until2 and tonumber(k.until2) - now, tenant = k.tenant,
    scopes = k.scopes, models = k.models, expires_ms = k.expires and tonumber(k.expires) - now, used_ms = k.used and now - tonumber(k.used),
    revoked = k.state ~= 'active', record = whole(K.tenant(k.tenant))}
end)

define('keys_used', function(a)
  local now = now_ms()
  for _, id in ipairs(a.ids) do
    local k = read(K.key(id), {'state', 'used'})
    if k.state and now - (tonumber(k.used) or 0) >= a.gap_ms then redis.call('HSET', K.key(id), 'used', exactly(now)) end
  end
  return true
end)

-- Answers nil if `after` is no key of this list.
define('keys_page', function(a)
  local index, first = a.tenant and K.keys_of(a.tenant) or K.api_keys(), 0
  if a.after then
    local place = redis.call('ZRANK', index, a.after)
    if not place then return nil end
    first = redis.call('ZCARD', index) - place
  end
  return redis.call('ZREVRANGE', index, first, first + a.most - 1)
end)

-- Take keys over, once. Later it answers with the ids that were not taken over, and those that were, are active, and are not there now.
define('keys_take_over', function(a)
  local before = redis.call('HGET', K.access(), 'imported')
  local strange, missing, given = {}, {}, {}
  for _, k in ipairs(a.keys) do
    given[k.id] = true
    if before then
      if redis.call('EXISTS', K.key(k.id)) == 0 then strange[#strange + 1] = k.id end
    elseif redis.call('EXISTS', K.key(k.id)) == 0 then
      make_key(k.id, {digest = k.digest, tenant = k.tenant, scopes = a.scopes, name = 'api_keys'})
    end
  end
  if not before then
    local ids = {}
    for id in pairs(given) do ids[#ids + 1] = id end
    redis.call('HSET', K.access(), 'imported', table.concat(ids, ' '))
    access_changed()
    return {first = true, strange = strange, missing = missing}
  end
  for id in string.gmatch(before, '%S+') do
    if not given[id] and redis.call('HGET', K.key(id), 'state') == 'active' then missing[#missing + 1] = id end
  end
  return {first = false, strange = strange, missing = missing}
end)
