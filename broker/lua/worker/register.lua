#!lua flags=allow-oom
-- Register a worker: what its pool serves, and its lease. It is refused, and nothing is written, if it disagrees with a live worker of its
-- pool, or if a name that it serves (a model's own, or an alias) means another model elsewhere.
-- ARGV: worker ttl_ms pool serves info names facts
--   serves: what must be equal in a pool, as text. names: JSON, name -> model. facts: JSON, model -> its facts as JSON.
-- Returns {'ok'} | {'pool'|'name', other, its lease's end, its info, its serves, name, its model of this name}
local worker, ttl, pool, serves = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local now = now_ms()
local names, facts = cjson.decode(ARGV[6]), cjson.decode(ARGV[7])
local live = redis.call('ZRANGEBYSCORE', K.workers(), '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #live, 2 do
  local o = redis.call('HMGET', K.worker(live[i]), 'info', 'pool', 'serves', 'names')
  if live[i] ~= worker and o[3] then -- else it has an older version, which did not register
    if o[2] == pool and o[3] ~= serves then return {'pool', live[i], live[i + 1], o[1], o[3], '', ''} end
    for name, model in pairs(cjson.decode(o[4])) do
      if names[name] and names[name] ~= model then return {'name', live[i], live[i + 1], o[1], o[3], name, model} end
    end
  end
end
-- The pool serves this and nothing else: forget the models of earlier workers.
for _, field in ipairs(redis.call('HKEYS', K.models())) do
  if facts[field] or string.sub(field, 1, #pool + 1) == pool .. ' ' then redis.call('HDEL', K.models(), field) end
end
for model, said in pairs(facts) do redis.call('HSET', K.models(), pool .. ' ' .. model, said) end
redis.call('HSET', K.worker(worker), 'info', ARGV[5], 'pool', pool, 'serves', serves, 'names', ARGV[6])
redis.call('PEXPIRE', K.worker(worker), ttl * 10)
redis.call('ZADD', K.workers(), now + ttl, worker)
ring('')
return {'ok'}
