-- Says that a gateway is alive, also to an engine that has no memory left, where people need to see who is there.
--
-- KEYS   gateways
-- ARGV   the gateway, what it says of itself
-- Reply  1 if it is a new one, else 0
-- @flags allow-oom

return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
