-- How long a lease is (R12), and how long a call outlives it (R13, R14); until when what is said holds.

local lease_ms, grace_ms, until_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
