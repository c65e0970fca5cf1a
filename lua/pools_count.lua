-- Counts the calls in progress of accounts in two ways at one instant: as their pools do, and in `order`.
--
-- KEYS   for each account: pool, order
-- ARGV   none
-- Reply  for each account: its pool as it was last written ('' there is none), how many calls stand in `order`
-- @flags allow-oom

local reply = {}
for i = 1, #KEYS, 2 do
  reply[i], reply[i + 1] = redis.call('GET', KEYS[i]) or '', redis.call('ZCARD', KEYS[i + 1])
end
return reply
