-- Tenants as data. ns:tenant:<t> holds what an operator has set: state (always), weight, queue_max, max_active, models and lanes (JSON), rpm,
-- tpm, tpd, storage_max, batches_max, retention_ms; and in `told` what functions read of it (tenant_record), as JSON. So a change is effective
-- with the next call; the version in ns:access has the api processes read it again.
local TOLD = {'weight', 'queue_max', 'max_active', 'rpm', 'tpm', 'tpd', 'storage_max', 'batches_max', 'state'}

local function tenants_changed(tenant)
  access_changed()
  seen.tenants = {}
  for _, pool in ipairs(redis.call('SMEMBERS', K.pools())) do
    unpark(pool, tenant) -- its bound may be higher now
    ring_all(pool)
  end
  look('') -- its batches may go on
end

-- Write fields of a tenant's record; '' removes one. Returns whether that changed anything.
local function set_tenant(tenant, fields)
  local key, changed = K.tenant(tenant), redis.call('SADD', K.tenants(), tenant) == 1
  for name, value in pairs(fields) do
    if (redis.call('HGET', key, name) or '') ~= value then
      changed = true
      if value == '' then redis.call('HDEL', key, name) else redis.call('HSET', key, name, value) end
    end
  end
  redis.call('HSETNX', key, 'state', 'active')
  redis.call('HSET', key, 'told', cjson.encode(read(key, TOLD)))
  redis.call('HSET', K.limits(), 'by_tenant', 1)
  return changed
end

define('tenant_set', function(a)
  local changed = set_tenant(a.tenant, a.fields)
  if changed then
    tenants_changed(a.tenant)
    audit(a, 'tenant.set', 'tenant ' .. a.tenant, a.fields)
  end
  return changed
end)

define('tenant_reset', function(a)
  local known = redis.call('SREM', K.tenants(), a.tenant) == 1
  redis.call('DEL', K.tenant(a.tenant))
  if redis.call('EXISTS', K.tenants()) == 0 then redis.call('HDEL', K.limits(), 'by_tenant') end
  if known then
    tenants_changed(a.tenant)
    audit(a, 'tenant.reset', 'tenant ' .. a.tenant)
  end
  return known
end)

-- Take one tenant over from the settings, once for all.
define('tenant_import', function(a)
  if redis.call('HSETNX', K.access(), 'imported:tenant:' .. a.tenant, 1) == 0 then return false end
  if redis.call('EXISTS', K.tenant(a.tenant)) == 1 then return false end
  set_tenant(a.tenant, a.fields)
  tenants_changed(a.tenant)
  return true
end)
