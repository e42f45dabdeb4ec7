#!lua flags=allow-oom
-- Tell a worker to drain: at once over its channel, and with its next heartbeat in case it missed that.
-- ARGV: worker timeout_s|''
-- Returns 1, or 0 if its lease is not alive.
local lease = redis.call('ZSCORE', K.workers(), ARGV[1])
if not lease or tonumber(lease) < now_ms() then return 0 end
redis.call('HSET', K.worker_cancels(ARGV[1]), 'drain', ARGV[2])
redis.call('PUBLISH', K.ctl_channel(ARGV[1]), cmsgpack.pack({'drain', ARGV[2]}))
return 1
