#!lua flags=no-writes
-- The position of a queued job, or (no id) of a new one.
-- ARGV: id | '' pool lane tenant
-- Returns {position, eta_ms, run_ms}, -1 for what is not known; nil: it is not queued.
local id, pool, lane, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local position, rank
if id == '' then
  position, rank = position_of_next(pool, lane, tenant)
else
  local s = redis.call('HMGET', K.job(id), 'state', 'pool', 'lane', 'tenant', 'leader')
  if s[1] ~= 'queued' then return nil end
  pool, lane, tenant = s[2], s[5] and redis.call('HGET', K.job(s[5]), 'lane') or s[3], s[4]
  position, rank = position_of(pool, lane, s[5] or id, tenant)
end
if not position then return {-1, -1, -1} end
local eta, run = estimate_start(pool, lane, position, tenant, rank)
return {position, eta or -1, run and math.floor(run) or -1}
