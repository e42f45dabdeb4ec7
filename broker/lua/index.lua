-- Indexes by tenant, of what was made before there were any (broker/tenant_indexes.py). Each call reads a record and adds its entry in one
-- step, so that none is left of a record that is deleted meanwhile. Records that have ended last longer since: see OUTLIVES_MS.
local INDEX = {}

local function outlive(record)
  local left = redis.call('PTTL', record)
  if left > 0 and left < OUTLIVES_MS then redis.call('PEXPIRE', record, exactly(left + OUTLIVES_MS)) end
end

function INDEX.jobs(id)
  local j = read(K.job(id), {'tenant', 'batch', 'created', 'facts'}, redis.pcall)
  if not j.created or j.batch or j.facts and cjson.decode(j.facts).endpoint == CHUNK_ENDPOINT then return end
  redis.call('ZADD', K.jobs_of(j.tenant), j.created, id)
  local ended = redis.call('ZSCORE', K.dead(), id)
  if ended then redis.call('ZADD', K.dead_of(j.tenant), ended, id) end
  outlive(K.job(id))
end

function INDEX.files(id)
  local f = read(K.file(id), {'tenant', 'purpose', 'created'})
  if not f.created then return end
  local tenant = f.tenant or 'default'
  for _, index in ipairs({K.files_of(tenant), K.files_of_purpose(tenant, f.purpose)}) do redis.call('ZADD', index, f.created, id) end
end

function INDEX.batches(id)
  local b = read(K.batch(id), {'tenant', 'created'})
  if not b.created then return end
  redis.call('ZADD', K.batches_of(b.tenant or 'default'), b.created, id)
  outlive(K.batch(id))
end

define('index_tenants', function(a)
  for _, id in ipairs(a.ids) do INDEX[a.room](id) end
  return true
end)
