-- Settings that a gateway decides calls by: how long an ended call's id is remembered (R9), how long a lease is (R12), how
-- long a call outlives it (R13, R14), and how long one that was settled in its absence can come back (R15); until when
-- anybody waits for what is decided.

local memory_ms, lease_ms, grace_ms, late_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local until_ms = tonumber(ARGV[6])
