-- The Celery message that carries a job's id, made from the envelope (broker/celery/envelope.py).
local envelope_read
local function envelope()
  if envelope_read == nil then envelope_read = redis.call('GET', K.envelope()) end
  return envelope_read
end

-- Replace every mark by a value. (string.gsub tries its pattern at every character and takes five times as long.)
local function fill(text, mark, value)
  local pieces, from = {}, 1
  while true do
    local at, to = string.find(text, mark, from, true)
    if not at then break end
    pieces[#pieces + 1] = string.sub(text, from, at - 1)
    from = to + 1
  end
  pieces[#pieces + 1] = string.sub(text, from)
  return table.concat(pieces, value)
end

local function message(id, queue)
  local text = envelope()
  return text and fill(fill(text, '@ID@', id), '@QUEUE@', queue)
end
