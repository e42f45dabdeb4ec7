#!lua flags=allow-oom
-- Cancel a job: a queued one ends at once, a running one when its worker, which is told, has stopped it. A finished one stays.
-- ARGV: id retention_ms
-- Returns the state it is in now, or nil if there is no such job.
return stop_job(ARGV[1], on_cancel, now_ms(), tonumber(ARGV[2]))
