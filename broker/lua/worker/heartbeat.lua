#!lua flags=allow-oom
-- Prolong a worker's lease; the first heartbeat takes it out.
-- ARGV: worker ttl_ms first('1'|'0') info|'' pool|'' node|'' slots (jobs it takes at once now) bulk_slots
-- Returns {0}: the lease is lost, the worker must abort everything and exit. {1, id, why, ...}: jobs it must abort.
local worker, ttl = ARGV[1], tonumber(ARGV[2])
local now = now_ms()
-- A lease that ran out while Redis was away, but that no reaper has ended, may go on: no job was taken from the worker, and a job that a
-- reaper takes is fenced by the attempt. 0 was set by bury.
local lease = redis.call('ZSCORE', K.workers(), worker)
if ARGV[3] == '0' and (not lease or tonumber(lease) == 0) then return {0} end
redis.call('ZADD', K.workers(), now + ttl, worker)
if ARGV[4] ~= '' then redis.call('HSET', K.worker(worker), 'info', ARGV[4]) end
if ARGV[5] ~= '' then
  redis.call('HSET', K.worker(worker), 'pool', ARGV[5], 'node', ARGV[6], 'cap', ARGV[7], 'bulk_cap', ARGV[8],
    'ttl', ttl)
  count_slots(ARGV[5], now)
end
redis.call('PEXPIRE', K.worker(worker), ttl * 10)
local answer = redis.call('HGETALL', K.worker_cancels(worker))
table.insert(answer, 1, 1)
return answer
