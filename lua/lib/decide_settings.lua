-- Settings that a gateway decides calls by: how long an ended call's id is remembered (R9), and a new call's lease.

local memory_ms, lease_ms = tonumber(ARGV[2]), tonumber(ARGV[3])
