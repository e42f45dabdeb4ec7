-- Move what waits in a pool to the pool that it forwards to. The last job of each line is moved first, and goes before the line that its
-- tenant has there: so a line keeps its order, and comes before jobs that were accepted since. Jobs without a turn stay: one whose next
-- attempt is not due is brought home when it is, one that is attached when its leader ends.
local function move_one(pool, to, lane, owner, id)
  local order = owner == FIRST and redis.call('ZSCORE', K.backlog(pool, lane, FIRST), id)
  local j = read(K.job(id), {'state', 'tenant', 'cost', 'attempt', 'paid'}, redis.pcall)
  dequeue(pool, lane, j.tenant or owner, id)
  if j.state ~= 'queued' then return end -- its record is lost
  redis.call('HSET', K.job(id), 'pool', to)
  if order then
    enqueue_first(to, lane, id, order)
  else
    enqueue_ahead(to, lane, j.tenant, id, unpaid(j))
  end
end

-- One step. Returns how many jobs were moved; less than `most`: no more are left.
local function move_on(pool, most)
  local to, done = home_of(pool), 0
  if to == pool or most <= 0 then return 0 end
  for _, lane in ipairs(LANES) do
    for _, owner in ipairs(redis.call('ZREVRANGE', K.turns(pool, lane), 0, most - 1)) do
      if done >= most then return done end
      for _, id in ipairs(redis.call('ZREVRANGE', K.backlog(pool, lane, owner), 0, most - done - 1)) do
        move_one(pool, to, lane, owner, id)
        done = done + 1
      end
    end
  end
  return done
end
