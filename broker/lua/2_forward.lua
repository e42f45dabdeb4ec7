-- A pool may forward to another one: a version of a model that was replaced, or that does not serve yet. Jobs that would be queued in it
-- are queued there, whoever asks; those that wait in it are moved in steps. The field `forward` of pool:<pool> has the other's name.

-- The pool in which jobs for this one are queued. A pool that others are forwarded to loses its own `forward`, so there is no ring; HOPS is
-- for a Redis that somebody else wrote to. Each rollout makes the way longer, so whoever goes it makes it short again.
local HOPS = 100

local function home_of(first)
  local pool, hops = first, 0
  while hops < HOPS do
    local to = redis.call('HGET', K.pool(pool), 'forward')
    if not to then break end
    pool, hops = to, hops + 1
  end
  if hops > 1 and pool ~= first then redis.call('HSET', K.pool(first), 'forward', pool) end
  return pool
end

-- Whether workers are started for what waits in a pool: it is declared, or a declared pool forwards to it. Writes nothing.
local function scales_from_zero(pool)
  if redis.call('HEXISTS', K.declared(), pool) == 1 then return true end
  for _, to in ipairs(redis.call('HKEYS', K.declared())) do
    local hops = 0
    while to and to ~= pool and hops < HOPS do
      to, hops = redis.call('HGET', K.pool(to), 'forward'), hops + 1
    end
    if to == pool then return true end
  end
  return false
end

-- A job that is about to be queued again goes to the pool that its own forwards to. j: its record; its pool is set.
local function bring_home(id, j)
  local pool = home_of(j.pool)
  if pool == j.pool then return end
  j.pool = pool
  redis.call('HSET', K.job(id), 'pool', pool)
end

-- Have one pool forward to another, which takes the jobs itself.
local function set_forward(from, to)
  if from == to then return end
  redis.call('HDEL', K.pool(to), 'forward')
  redis.call('HSET', K.pool(from), 'forward', to)
  redis.call('SADD', K.pools(), from, to)
end
