-- How many jobs a pool and a tenant may have on the engines at once. A job is admitted from its dispatch to its end.
local paused_read = {}
local function is_paused(pool)
  if paused_read[pool] == nil then paused_read[pool] = redis.call('SISMEMBER', K.paused(), pool) == 1 end
  return paused_read[pool]
end

local limits_read
local function limit(name)
  if not limits_read then
    limits_read = {}
    local flat = redis.call('HGETALL', K.limits())
    for i = 1, #flat, 2 do limits_read[flat[i]] = tonumber(flat[i + 1]) end
  end
  return limits_read[name]
end

local function count_down(key, tenant)
  if redis.call('HINCRBY', key, tenant, -1) <= 0 then redis.call('HDEL', key, tenant) end
end

local function admit(pool, lane, tenant)
  redis.call('HINCRBY', K.admitted(pool), tenant, 1)
  if lane == 'bulk' then redis.call('HINCRBY', K.admitted_bulk(pool), tenant, 1) end
end

local function dismiss(pool, lane, tenant)
  count_down(K.admitted(pool), tenant)
  if lane == 'bulk' then count_down(K.admitted_bulk(pool), tenant) end
end

local function sum_of(key)
  local sum = 0
  for _, n in ipairs(redis.call('HVALS', key)) do sum = sum + n end
  return sum
end

-- Admitted jobs of all tenants, and how many of them are bulk.
local function count_admitted(pool) return sum_of(K.admitted(pool)), sum_of(K.admitted_bulk(pool)) end

-- Slots under a bound that bulk never gets, so that it cannot fill the bound.
local function kept_from_bulk(most) return math.max(1, math.ceil(most / 4)) end

-- Whether a bound (most) allows one more job of this lane, with `all` admitted, `bulk` of them bulk. One bulk job may always run: under
-- a bound of 1 an interactive job then runs beside it.
local function fits(lane, most, all, bulk)
  local kept = kept_from_bulk(most)
  if lane == 'bulk' then return all < most and bulk < math.max(1, most - kept) end
  return all < most or all - bulk < kept
end

local function bound_of(tenant) return limit('max_active:' .. tenant) or limit('tenant_max_active') end

local function at_bound(pool, lane, tenant)
  local most = bound_of(tenant)
  if not most then return false end
  local all, bulk = redis.call('HGET', K.admitted(pool), tenant), redis.call('HGET', K.admitted_bulk(pool), tenant)
  return not fits(lane, most, tonumber(all or nil) or 0, tonumber(bulk or nil) or 0)
end
