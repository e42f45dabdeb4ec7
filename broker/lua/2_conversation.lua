-- Conversations. Its items are those of its last response's job (which has the whole context), and after these what its client added since:
-- one field `items:<n>` for each call that adds some, from `first` to `next` - 1. `turn` counts what makes an answer that was resolved
-- before stale: a response that ended well, and an item that was deleted. `busy`: the job that continues it now. `bytes`: of all `items:<n>`.
local CONVERSATION = {'tenant', 'created', 'metadata', 'last', 'busy', 'turn', 'first', 'next', 'dropped', 'bytes', 'changed_by'}

-- Keep a conversation, and the record that has its items, for a retention from now on. keep: its tenant's own; nil: by the settings.
local function keep_conversation(id, last, retention, keep)
  local ttl = keep or retention
  redis.call('PEXPIRE', K.conversation(id), exactly(ttl))
  local j = last and read(K.job(last), {'state', 'finished'})
  if not j or not j.finished then return end
  redis.call('PEXPIRE', K.job(last), exactly(ttl + OUTLIVES_MS), 'GT')
  redis.call('ZADD', K.ended(j.state), 'GT', exactly(now_ms() + ttl - retention), last)
end

-- The job that continues a conversation now; nil: there is none.
local function busy_with(c)
  local state = c.busy and redis.call('HGET', K.job(c.busy), 'state')
  return (state == 'queued' or state == 'running') and c.busy or nil
end

-- Why a job cannot continue its conversation; nil: it can. a: a call of `accept`.
local function refuse_conversation(a)
  local c = read(K.conversation(a.conversation), CONVERSATION)
  if c.tenant ~= a.tenant then return {kind = 'no_conversation', id = a.conversation} end
  local busy = busy_with(c)
  if busy or tonumber(c.turn) ~= a.conversation_turn then return {kind = 'conversation_busy', id = busy or a.conversation} end
end

local function enter_conversation(id, a)
  redis.call('HSET', K.conversation(a.conversation), 'busy', id)
  keep_conversation(a.conversation, redis.call('HGET', K.conversation(a.conversation), 'last') or nil, a.retention_ms, a.keep_ms)
end

-- A job that continues a conversation has ended. j: its fields JOB.
local function leave_conversation(id, j, to, retention, keep)
  local key = K.conversation(j.conversation)
  local c = read(key, CONVERSATION)
  if c.busy ~= id then return end
  redis.call('HDEL', key, 'busy')
  if to ~= 'succeeded' then return end
  local taken = {}
  for n = tonumber(c.first), tonumber(j.taken) - 1 do taken[#taken + 1] = 'items:' .. n end
  if taken[1] then redis.call('HDEL', key, unpack(taken)) end
  -- `first` never goes back: the fields before it are gone.
  local first, bytes = math.max(tonumber(c.first), tonumber(j.taken)), 0
  for n = first, tonumber(c.next) - 1 do bytes = bytes + redis.call('HSTRLEN', key, 'items:' .. n) end
  write(key, {last = id, turn = tonumber(c.turn) + 1, first = first, bytes = bytes})
  keep_conversation(j.conversation, id, retention, keep)
end

-- Note items that follow. blob: JSON, or sealed. most: bytes of all of them. Returns false if there is no room for more before the next
-- response.
local PARTS = 1000

local function add_items(key, c, blob, most)
  local bytes = (number(c.bytes) or 0) + #blob
  if bytes > most or tonumber(c.next) - tonumber(c.first) >= PARTS then return false end
  write(key, {['items:' .. c.next] = blob, next = tonumber(c.next) + 1, bytes = bytes})
  return true
end

define('conversation_create', function(a, blobs)
  local key = K.conversation(a.id)
  if redis.call('EXISTS', key) == 1 then return tonumber(redis.call('HGET', key, 'created')) end -- the client library sent the call twice
  local now = now_ms()
  write(key, {tenant = a.tenant, created = now, metadata = a.metadata, turn = 0, first = 0, next = 0})
  if blobs[1] then add_items(key, {first = 0, next = 0}, blobs[1], #blobs[1]) end
  keep_conversation(a.id, nil, a.retention_ms, a.keep_ms)
  return now
end)

define('conversation_change', function(a, blobs)
  local key = K.conversation(a.id)
  local c = read(key, CONVERSATION)
  if not c.tenant or not owns(a, c.tenant) then return 'gone' end
  if c.changed_by == a.nonce then return 'done' end -- the client library sent the call twice
  if blobs[1] and not add_items(key, c, blobs[1], a.most_bytes) then return 'full' end
  redis.call('HSET', key, 'changed_by', a.nonce)
  if a.metadata then redis.call('HSET', key, 'metadata', a.metadata) end
  if a.drop then
    local dropped = c.dropped and c.dropped .. ' ' .. a.drop or a.drop
    write(key, {dropped = dropped, turn = tonumber(c.turn) + 1})
  end
  keep_conversation(a.id, c.last, a.retention_ms, a.keep_ms)
  return 'done'
end)

-- Its last response's record is about to go, so what it has moves into the conversation. turn: as it was when its items were read. Not while
-- a job continues it: that job has the same items, and counts as taken those that this would number anew.
define('conversation_fold', function(a, blobs)
  local key = K.conversation(a.id)
  local c = read(key, CONVERSATION)
  if not c.tenant or not owns(a, c.tenant) then return 'gone' end
  if tonumber(c.turn) ~= a.turn or tonumber(c.next) ~= a.parts then return 'moved' end
  if busy_with(c) then return 'busy' end
  local old = {'last', 'dropped'}
  for n = tonumber(c.first), tonumber(c.next) - 1 do old[#old + 1] = 'items:' .. n end
  redis.call('HDEL', key, unpack(old))
  write(key, {first = c.next, turn = a.turn + 1, bytes = 0})
  if blobs[1] then add_items(key, {first = c.next, next = c.next}, blobs[1], #blobs[1]) end
  return 'done'
end)

define('conversation_delete', function(a)
  local key = K.conversation(a.id)
  local tenant = redis.call('HGET', key, 'tenant')
  if not tenant or not owns(a, tenant) then return false end
  redis.call('UNLINK', key)
  audit_of_another(a, tenant, 'conversation.delete', 'conversation ' .. a.id)
  return true
end)
