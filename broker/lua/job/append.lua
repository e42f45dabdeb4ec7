#!lua
-- Log and publish new chunks of many jobs at once. Chunks of a job that is not running with this attempt are refused.
-- ARGV: groups of (id attempt seq payload)
-- Returns the ids that were refused.
local refused, outbox = {}, {}
local function send(sink)
  local box = outbox[sink]
  box.size = nil -- cmsgpack would make a map of it
  redis.call('PUBLISH', K.api_channel(sink), cmsgpack.pack(box))
  outbox[sink] = nil
end
local now = now_ms()
for i = 1, #ARGV, 4 do
  local id, attempt, payload = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local job = K.job(id)
  local s = redis.call('HMGET', job, 'state', 'attempt', 'sinks', 'first')
  if s[1] ~= 'running' or s[2] ~= attempt then
    refused[#refused + 1] = id
  else
    local eid = attempt .. '-' .. ARGV[i + 2]
    local added = redis.pcall('XADD', K.log(id), eid, 'p', payload)
    if type(added) == 'string' then -- otherwise it is there already: the client library sent the script twice
      if not s[4] then redis.call('HSET', job, 'first', now) end
      if s[3] then
        for sink in string.gmatch(s[3], '%S+') do
          local box = outbox[sink]
          if not box then
            box = {}
            outbox[sink] = box
          end
          box[#box + 1] = id
          box[#box + 1] = eid
          box[#box + 1] = #payload > PUBLISHED and LOOK or payload
          box.size = (box.size or 0) + #box[#box]
          if box.size > PUBLISHED then send(sink) end
        end
      end
    end
  end
end
for sink in pairs(outbox) do send(sink) end
return refused
