-- A tenant's quotas. Those of a minute are kept by the generic cell rate algorithm (ITU-T I.371, annex A, as a virtual schedule): a unit takes
-- 60 s / limit, and the theoretical arrival time of the next one may lie a minute ahead, so that a whole minute's worth may come at once.
-- The day's is a counter. ns:quota:<t> holds r and t: theoretical arrival times of requests and tokens; used: tokens of the day `day` (UTC);
-- bytes: of its files; batches: that have not ended.
local MINUTE, DAY = 60000, 86400000

local function day_of(at) return math.floor(at / DAY) end

-- One unit in milliseconds.
local function interval_of(per_minute) return MINUTE / per_minute end

-- What a quota says: {limit, what is left of it, milliseconds until all of it is left}.
local function rate_of(per_minute, arrival)
  if not per_minute then return nil end
  local ahead = math.max(0, (arrival or 0) - now_ms())
  return {per_minute, math.max(0, math.floor((MINUTE - ahead) / interval_of(per_minute) + 0.001)), math.ceil(ahead)}
end

-- The theoretical arrival time after `amount` more units, and by how many milliseconds that is too early. (Half a unit is for rounding.)
local function arrive(per_minute, arrival, amount)
  local interval = interval_of(per_minute)
  local after = math.max(arrival or 0, now_ms()) + amount * interval
  return after, after - now_ms() - MINUTE > interval / 2 and math.ceil(after - now_ms() - MINUTE) or 0
end

local function has_quota(t) return t.rpm or t.tpm or t.tpd end

-- Of each tenant a command keeps, in seen.quotas: what it has used, and `take`, which of it is to be written at the command's end; or, if
-- that was not read, `back`: by how much the tokens of its day change. This writes it and forgets the tenant.
local function write_quota(tenant)
  local q = seen.quotas[tenant]
  seen.quotas[tenant] = nil
  if q.take then write(K.quota(tenant), q.take) end
  if q.back and q.back ~= 0 then redis.call('HINCRBY', K.quota(tenant), 'used', exactly(q.back)) end
end

at_end[#at_end + 1] = function()
  for tenant in pairs(seen.quotas) do write_quota(tenant) end
end

local function quota_use(tenant)
  local known = seen.quotas[tenant]
  if known and not known.back then return known end
  if known then write_quota(tenant) end
  local q = read(K.quota(tenant), {'r', 't', 'day', 'used'})
  known = {r = number(q.r), t = number(q.t), used = number(q.day) == day_of(now_ms()) and math.max(0, number(q.used) or 0) or 0}
  seen.quotas[tenant] = known
  return known
end

-- Take one request of so many tokens from the quotas of a tenant, if they allow it. Returns what is used of them then, and why it is refused
-- (nil: it is not): `over`, the quota; `wait`, milliseconds after which it fits, nil: never, or not today; `most`, the limit.
local function ask_quota(tenant, tokens)
  local t = tenant_record(tenant)
  if not has_quota(t) then return nil end
  local rpm, tpm, tpd = number(t.rpm), number(t.tpm), number(t.tpd)
  local q, take, refusal = quota_use(tenant), {}, nil
  if tpd then
    if q.used + tokens > tpd then refusal = {over = 'day', most = tpd} end
    take.day, take.used = day_of(now_ms()), q.used + tokens
  end
  if rpm then
    local early
    take.r, early = arrive(rpm, q.r, 1)
    if early > 0 and not refusal then refusal = {over = 'requests', wait = early, most = rpm} end
  end
  if tpm then
    local early
    take.t, early = arrive(tpm, q.t, tokens)
    if early > 0 and not refusal then refusal = {over = 'tokens', wait = tokens <= tpm and early or nil, most = tpm} end
  end
  if not refusal then
    q.r, q.t, q.used, q.take = take.r, take.t, take.used or q.used, take
    return take
  end
  refusal.kind, refusal.asked, refusal.at = 'over_quota', tokens, now_ms()
  refusal.requests, refusal.tokens = rate_of(rpm, q.r), rate_of(tpm, q.t)
  return nil, refusal
end

-- Add to an answer what is left of the minute. q: what was used of it, if that is known.
local function with_rates(tenant, answer, q)
  local t = tenant_record(tenant)
  if t.rpm or t.tpm then
    q = q or quota_use(tenant)
    answer.requests, answer.tokens = rate_of(number(t.rpm), q.r), rate_of(number(t.tpm), q.t)
  end
  return answer
end

-- A job that reserved tokens at its acceptance has ended and used so many. The rest goes back: to the day whole; to the minute less the time
-- since the acceptance, as the minute may have refilled by as much meanwhile.
local function settle_quota(j, used)
  local more = used - tonumber(j.reserved)
  if more == 0 then return end
  local t, known, created, now = tenant_record(j.tenant), seen.quotas[j.tenant], tonumber(j.created), now_ms()
  if known and not known.back then write_quota(j.tenant) end
  if t.tpd and day_of(created) == day_of(now) then
    seen.quotas[j.tenant] = {back = (known and known.back or 0) + more}
  end
  if not t.tpm then return end
  local key, by = K.quota(j.tenant), more * interval_of(number(t.tpm))
  if more > 0 then
    redis.call('HSET', key, 't', exactly(math.max(number(redis.call('HGET', key, 't')) or 0, now) + by))
  elseif by + math.max(0, now - created) < 0 then
    redis.call('HINCRBYFLOAT', key, 't', exactly(by + math.max(0, now - created)))
  end
end

-- Rows of a batch have run. Of a minute they leave a quarter to the tenant's calls, as bulk does of a bound.
local function use_for_rows(tenant, tokens)
  local t = tenant_record(tenant)
  if tokens <= 0 or not (t.tpm or t.tpd) then return end
  local q, now, f = quota_use(tenant), now_ms(), {}
  if t.tpd then f.day, f.used = day_of(now), q.used + tokens end
  if t.tpm then
    local before, after = math.max(q.t or 0, now), arrive(number(t.tpm), q.t, tokens)
    f.t = math.max(before, math.min(after, now + MINUTE * 3 / 4))
  end
  q.t, q.used, q.take = f.t, f.used or q.used, f
end

-- Count what a tenant has in all: 'bytes' of its files, 'batches' that have not ended. most: by the tenant's quota of that name it may have
-- no more. Returns the refusal; nil: it is counted.
local function count_held(tenant, what, by, most)
  local limit_to = most and limit_of(tenant, most)
  if limit_to and (number(redis.call('HGET', K.quota(tenant), what)) or 0) + by > limit_to then
    return {kind = 'over_quota', id = '', most = limit_to}
  end
  if by ~= 0 then redis.call('HINCRBY', K.quota(tenant), what, exactly(by)) end -- an empty file's size, negated, is -0
end

-- Why a tenant's batches wait; nil: they may run.
local WAITS = {quota = true, tenant_suspended = true}

local function batch_waits_for(tenant)
  local t = tenant_record(tenant)
  if t.state == 'suspended' then return 'tenant_suspended' end
  local tpd = number(t.tpd)
  return tpd and quota_use(tenant).used >= tpd and 'quota' or nil
end
