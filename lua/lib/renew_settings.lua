-- How long a lease is (R12), and how long a call outlives it (R13, R14).

local lease_ms, grace_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
