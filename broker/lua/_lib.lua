-- Shared by every script, after the key table K that keys.py renders. All times are the server's.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

-- The last sequence numbers of an attempt: its end, and its return to the queue.
local SEQ_END = '4294967295'
local SEQ_BACK = '4294967294'

-- Send one event to every api process that wants this job's events.
local function publish(sinks, id, eid, payload)
  if not sinks or sinks == '' then return end
  local message = cmsgpack.pack({id, eid, payload})
  for sink in string.gmatch(sinks, '%S+') do
    redis.call('PUBLISH', K.api_channel(sink), message)
  end
end

-- Log (streamed jobs only) and publish a change of state that is not an end.
local function say_state(id, stream, sinks, eid, state, attempt, worker)
  if stream ~= '1' and (not sinks or sinks == '') then return end
  local payload = 's' .. cjson.encode({state = state, attempt = attempt, worker = worker})
  if stream == '1' then redis.pcall('XADD', K.log(id), eid, 'p', payload) end
  publish(sinks, id, eid, payload)
end
