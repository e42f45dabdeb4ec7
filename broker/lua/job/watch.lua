#!lua flags=allow-oom
-- Send a job's events to an api process too.
-- ARGV: id sink
-- Returns the job's state, or nil if there is no such job.
local s = redis.call('HMGET', K.job(ARGV[1]), 'state', 'sinks')
if s[1] == 'queued' or s[1] == 'running' then
  local sinks = s[2] or ''
  if not string.find(' ' .. sinks .. ' ', ' ' .. ARGV[2] .. ' ', 1, true) then
    redis.call('HSET', K.job(ARGV[1]), 'sinks', sinks == '' and ARGV[2] or sinks .. ' ' .. ARGV[2])
  end
end
return s[1]
