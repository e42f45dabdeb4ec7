#!lua
-- running -> a terminal state, with the last chunks of a stream.
-- ARGV: id attempt worker event('succeed'|'fail'|'cancel'|'expire') status|'' result|'' usage|'' error|'' partial|'' retention_ms (seq payload)...
-- Returns 1, or 0 if the job is not running with this attempt.
local EVENTS = {succeed = on_succeed, fail = on_fail, cancel = on_cancel, expire = on_expire}
local id, attempt, worker = ARGV[1], ARGV[2], ARGV[3]
local s = redis.call('HMGET', K.job(id), 'state', 'attempt', 'sinks', 'first', 'finished_by')
if s[5] == worker .. ' ' .. attempt then return 1 end -- the client library sent the script twice
if s[1] ~= 'running' or s[2] ~= attempt then return 0 end
local now = now_ms()
local fields = {finished_by = worker .. ' ' .. attempt}
if ARGV[5] ~= '' then fields.status = ARGV[5] end
if ARGV[6] ~= '' then fields.result = ARGV[6] end
if ARGV[7] ~= '' then fields.usage = ARGV[7] end
if ARGV[8] ~= '' then fields.error = ARGV[8] end
if ARGV[9] ~= '' then fields.partial = ARGV[9] end
for i = 11, #ARGV, 2 do
  local eid = attempt .. '-' .. ARGV[i]
  local added = redis.pcall('XADD', K.log(id), eid, 'p', ARGV[i + 1])
  if type(added) == 'string' then publish(s[3], id, eid, ARGV[i + 1]) end -- otherwise append has been here with it
  if not s[4] then fields.first = now end
end
leave_worker(id, worker)
end_job(id, 'running', EVENTS[ARGV[4]].running, now, tonumber(ARGV[10]), fields)
return 1
