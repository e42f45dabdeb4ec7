-- Usage: what each tenant, key and model used on a day of UTC. One hash a day; its field '<tenant> <key> <model>' holds, as numbers with
-- spaces between: requests, failures, prompt, cached and completion tokens, microseconds of device, rows of batches among the requests.
local OTHER = 'other'
local FOLDED = '*' -- in place of the key, in a day that is folded; as a field: the day is

local known_day, known_date

-- The day of a moment, as yyyymmdd (H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
local function utc_day(ms)
  local day = math.floor(ms / 86400000)
  if day ~= known_day then
    local z = day + 719468
    local era = math.floor(z / 146097)
    local of_era = z - era * 146097
    local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
    local shifted = math.floor((5 * of_year + 2) / 153) -- months from March
    local month = shifted < 10 and shifted + 3 or shifted - 9
    local date = of_year - math.floor((153 * shifted + 2) / 5) + 1
    known_day, known_date = day, string.format('%04d%02d%02d', year + era * 400 + (month <= 2 and 1 or 0), month, date)
  end
  return known_date
end

-- Where a tenant's use of a model is counted. Beyond `most` rows a day a new row drops its key, and beyond a quarter more its model, so
-- that the day is bounded: by that, and by one row for each tenant.
local function usage_row(day, tenant, key, model, most)
  local row = tenant .. ' ' .. key .. ' ' .. model
  local old = redis.call('HGET', day, row)
  if old then return row, old end
  local rows = redis.call('HLEN', day)
  if rows < most then return row end
  row = tenant .. ' ' .. OTHER .. ' ' .. model
  old = redis.call('HGET', day, row)
  if old or rows < most * 1.25 then return row, old end
  row = tenant .. ' ' .. OTHER .. ' ' .. OTHER
  return row, redis.call('HGET', day, row)
end

local SEVEN = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'

-- n: the counts to add. old: those that are there, as text; nil: none.
local function add_usage(old, n)
  local a, b, c, d, e, f, g = 0, 0, 0, 0, 0, 0, 0
  if old then a, b, c, d, e, f, g = string.match(old, SEVEN) end
  return string.format('%d %d %d %d %d %d %d', a + n[1], b + n[2], c + n[3], d + n[4], e + n[5], f + n[6], g + n[7])
end

-- Count use. key: nil: no key was required. counts: the numbers in the order above. What is counted to a row that is there is written at
-- the command's end: many jobs that end together are mostly of few rows.
local function count_usage(tenant, key, model, counts)
  local most = limit('usage_rows_max') or 100000
  if most == 0 then return end
  local name = tenant .. ' ' .. (key or '-') .. ' ' .. model
  local known = seen.usage[name]
  if known then
    local sums = known.counts
    for i = 1, 7 do sums[i] = sums[i] + counts[i] end
    return
  end
  key = key and string.sub(string.gsub(key, '%s', '_'), 1, 128) or '-'
  local day = K.usage(utc_day(now_ms()))
  local row, old = usage_row(day, tenant, key, model, most)
  if old and row == name then -- others may share any other row
    seen.usage[name] = {old = old, counts = counts}
    return
  end
  redis.call('HSET', day, row, add_usage(old or nil, counts))
  if not old then redis.call('PEXPIRE', day, exactly(rare_limit('usage_ms') or 34560000000)) end
end

at_end[#at_end + 1] = function()
  if not next(seen.usage) then return end
  local rows = {}
  for row, known in pairs(seen.usage) do rows[row] = add_usage(known.old, known.counts) end
  write(K.usage(utc_day(now_ms())), rows)
end

-- Count a job at its end. Rows of batches count where they are committed, and not with the jobs that carry them. A follower used nothing.
-- j: the fields JOB of its record; of a worker's call, too, its model and the microseconds of device that its attempt took.
local function count_job(id, j, to, f)
  if j.batch then return end
  local used = f.usage and not f.result_of and cjson.decode(f.usage) or {}
  local facts = not j.model and redis.call('HGET', K.job(id), 'facts')
  local model = j.model or facts and cjson.decode(facts).model or OTHER
  local failed = (to == 'failed' or to == 'expired') and 1 or 0
  count_usage(j.tenant, j.key, model, {1, failed, used.p or 0, used.h or 0, used.c or 0, j.device_us or 0, 0})
end

-- Count rows of a batch. new: a batch's counts.
local function count_usage_of_rows(batch, new, device_us)
  local rows = new.completed + new.failed
  if rows == 0 then return end
  local b = read(batch, {'tenant', 'key', 'model'})
  count_usage(b.tenant, b.key, b.model or OTHER,
    {rows, new.failed, new.input_tokens, new.cached_tokens, new.output_tokens, device_us or 0, rows})
end

-- One step of folding old days to tenant and model. Returns the day under way and where to go on; nil: no day is left.
define('usage_fold', function(a)
  local days = {}
  for i, name in ipairs(a.days) do days[i] = K.usage(name) end
  for first = 1, #days, 1000 do -- of most days there is nothing
    if redis.call('EXISTS', unpack(days, first, math.min(first + 999, #days))) == 0 then
      for i = first, math.min(first + 999, #days) do days[i] = false end
    end
  end
  for i, name in ipairs(a.days) do
    local day = days[i]
    if day and redis.call('EXISTS', day) == 1 and redis.call('HEXISTS', day, FOLDED) == 0 then
      local found = redis.call('HSCAN', day, a.cursor, 'COUNT', a.most)
      for i = 1, #found[2], 2 do
        local tenant, key, model = string.match(found[2][i], '^(%S+) (%S+) (.*)$')
        if tenant and key ~= FOLDED then
          local row = tenant .. ' ' .. FOLDED .. ' ' .. model
          redis.call('HSET', day, row, add_usage(redis.call('HGET', day, row) or nil, {string.match(found[2][i + 1], SEVEN)}))
          redis.call('HDEL', day, found[2][i])
        end
      end
      if found[1] == '0' then redis.call('HSET', day, FOLDED, 1) end
      return {day = name, cursor = found[1]}
    end
  end
  return {cursor = '0'}
end)
