-- The engine's real time.
--
-- KEYS   meta of a shard (it only says which server to ask)
-- ARGV   none
-- Reply  ms since 1970
-- @flags allow-oom
-- @include shard
-- @include codes

return real_now_ms
