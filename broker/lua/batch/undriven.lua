#!lua flags=no-writes
-- Returns the ids of the batches that have not ended and whose lease no coordinator has.
local ids, undriven = redis.call('SMEMBERS', K.batches_active()), {}
table.sort(ids)
for first = 1, #ids, 1000 do
  local leases = {}
  for i = first, math.min(first + 999, #ids) do leases[#leases + 1] = K.batch_lease(ids[i]) end
  for i, holder in ipairs(redis.call('MGET', unpack(leases))) do
    if not holder then undriven[#undriven + 1] = ids[first + i - 1] end
  end
end
return undriven
