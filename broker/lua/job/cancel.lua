#!lua flags=allow-oom
-- Stop a job: a queued one at once, a running one by telling its worker. A finished one stays as it is.
-- ARGV: id retention_ms
-- Returns the state it is in now, or nil where there is no such job.
return stop_job(ARGV[1], 'cancelled', now_ms(), tonumber(ARGV[2]))
