-- Shared by every script, after the key table K (keys.py). scripts.py adds LANES (jobs/lanes.py), and for each event a table from a state
-- to the state that the event leads to: on_<event> of a job (jobs/states.py), on_batch_<event> of a batch (jobs/batches.py).
-- All times are the server's.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function now_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function exactly(number) return string.format('%.17g', number) end

local function rank_of(lane)
  for rank, name in ipairs(LANES) do
    if name == lane then return rank end
  end
end

-- The last sequence numbers of an attempt: its end, and its return to the queue.
local SEQ_END = '4294967295'
local SEQ_BACK = '4294967294'

-- Most bytes of a payload that is published: Redis disconnects a subscriber that has 32 MiB unread, and an api has one subscription for all
-- of its clients. In place of a longer payload goes LOOK: read the log, or the record.
local PUBLISHED = 262144
local LOOK = 'l'

-- Send one event to every api process that subscribed to this job's events.
local function publish(sinks, id, eid, payload)
  if not sinks or sinks == '' then return end
  if #payload > PUBLISHED then payload = LOOK end
  local event = cmsgpack.pack({id, eid, payload})
  for sink in string.gmatch(sinks, '%S+') do
    redis.call('PUBLISH', K.api_channel(sink), event)
  end
end

-- Log (streamed jobs only) and publish a change of state that is not an end.
local function publish_state(id, stream, sinks, eid, state, attempt, worker)
  if stream ~= '1' and (not sinks or sinks == '') then return end
  local payload = 's' .. cjson.encode({state = state, attempt = attempt, worker = worker})
  if stream == '1' then redis.pcall('XADD', K.log(id), eid, 'p', payload) end
  publish(sinks, id, eid, payload)
end

-- Have the coordinators look at a batch or a task now; '': at every batch.
local function ring(id)
  redis.call('PUBLISH', K.bell_channel(), cmsgpack.pack({id}))
end
