-- R1-R3 and R7: what a call bills and holds. `m` is the shard's meta, which carries the policy.

-- R1, R2: seconds billed for a duration in ms.
local function billed_seconds(m, duration_ms)
  if duration_ms <= m.free_ms then return 0 end
  return ceil(duration_ms / m.increment_ms) * m.increment_seconds
end

-- R3: the instant that a call is timed from, nil where it was not answered and only that counts.
local function origin_of(m, admitted_at_ms, answered_at_ms)
  if m.count_from == COUNT_FROM_ADMISSION then return admitted_at_ms end
  return answered_at_ms ~= 0 and answered_at_ms or nil
end

-- R7: seconds that a call in progress holds.
local function held_seconds(m, billed)
  return max(m.hold_seconds, billed)
end
