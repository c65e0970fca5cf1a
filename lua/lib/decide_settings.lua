-- Settings that a gateway decides calls by: how long an ended call's id is remembered (R9), and when the lease of a
-- call that begins now will end (R12).

local memory_ms, lease_until_ms = tonumber(ARGV[2]), real_now_ms + tonumber(ARGV[3])
