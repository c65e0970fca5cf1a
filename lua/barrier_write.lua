-- Writes something that replicas can be waited for by: WAIT waits for a connection's own writes only. A bare SET would be
-- refused by an engine that has no memory left, and with it all that has to be answered there.
--
-- KEYS   barrier of a shard
-- ARGV   how long it lives (ms)
-- Reply  OK
-- Rules  R26
-- @flags allow-oom

return redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
