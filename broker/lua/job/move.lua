#!lua flags=allow-oom
-- Change the lane of a queued job, or make it the next of its lane.
-- ARGV: id lane|'' (as it is) top('1'|'0')
-- Returns the job's state, or nil if there is no such job. Only a queued one is moved.
local id = ARGV[1]
local s = redis.call('HMGET', K.job(id), 'state', 'pool', 'lane', 'tenant', 'created', 'leader')
if s[1] ~= 'queued' then return s[1] end
local pool, tenant = s[2], s[4]
local lane = ARGV[2] ~= '' and ARGV[2] or s[3]
local top = ARGV[3] == '1'
if lane == s[3] and not top then return 'queued' end
local now = now_ms()
redis.call('HSET', K.job(id), 'lane', lane)
if s[6] or not redis.call('ZSCORE', K.queued(K.queue(pool, s[3])), id) then return 'queued' end -- it follows another, or waits for its next attempt
dequeue(pool, s[3], id, tenant, false)
if top then
  enqueue_first(pool, lane, id, tenant, now)
else
  enqueue(pool, lane, id, tenant, s[5] * 1000, now)
end
return 'queued'
