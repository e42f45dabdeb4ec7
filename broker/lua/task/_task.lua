-- Whether a task is still this attempt's, and has no answer.
local function holds_task(task, run, attempt)
  local s = redis.call('HMGET', task, 'run', 'attempt', 'answer')
  return s[1] == run and s[2] == attempt and not s[3]
end
