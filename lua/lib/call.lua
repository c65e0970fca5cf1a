-- A call's value in the `calls` hash (README.md, "calls"): in progress, ended, or an end that overtook its start.

-- The first byte.
local IN_PROGRESS = 76 -- L
local ENDED = 69 -- E
local OVERTAKEN = 84 -- T

local EMERGENCY_FLAG = 1
local ENDED_BY_HANGUP = 1

local IN_PROGRESS_HEAD = '<BBddd'
local IN_PROGRESS_PAYLOAD = 27
local ENDED_HEAD = '<BBBI2ddddddd'
local ENDED_PAYLOAD = 62
local OVERTAKEN_HEAD = '<Bd'

-- How long an end that overtook its start refuses that start (R17).
local OVERTAKEN_MS = 60000

local byte, find, sub = string.byte, string.find, string.sub

local function kind_of(blob) return byte(blob, 1) end

-- flags, admitted at, answered at (0 not yet), start of its cycle
local function decode_in_progress(blob)
  local _, flags, admitted_at_ms, answered_at_ms, cycle_start_ms = unpack_struct(IN_PROGRESS_HEAD, blob)
  return flags, admitted_at_ms, answered_at_ms, cycle_start_ms
end

local function in_progress_head(flags, admitted_at_ms, answered_at_ms, cycle_start_ms)
  return pack(IN_PROGRESS_HEAD, IN_PROGRESS, flags, admitted_at_ms, answered_at_ms, cycle_start_ms)
end

-- flags, ended by, revision, admitted at, answered at, ended at, settled at, start of its cycle, duration, billed
local function decode_ended(blob)
  local _, flags, ended_by, revision, admitted_at_ms, answered_at_ms, ended_at_ms, settled_at_ms, cycle_start_ms,
    duration_ms, billed = unpack_struct(ENDED_HEAD, blob)
  return flags, ended_by, revision, admitted_at_ms, answered_at_ms, ended_at_ms, settled_at_ms, cycle_start_ms,
    duration_ms, billed
end

local function overtaken_at(blob)
  local _, at_ms = unpack_struct(OVERTAKEN_HEAD, blob)
  return at_ms
end

local function settled_at(blob)
  local _, _, _, _, _, _, at_ms = decode_ended(blob)
  return at_ms
end

-- Who calls whom: "<staff>/<device>\0<channel>\0<to>".
local function payload_of(blob)
  return sub(blob, kind_of(blob) == IN_PROGRESS and IN_PROGRESS_PAYLOAD or ENDED_PAYLOAD)
end

-- May this asker speak for the call? The administrator is '', and everybody's calls begin with that.
local function is_callers(blob, device)
  local first = kind_of(blob) == IN_PROGRESS and IN_PROGRESS_PAYLOAD or ENDED_PAYLOAD
  return sub(blob, first, first + #device - 1) == device
end

-- "<staff>/<device>\0" of a call in progress.
local function device_of(blob)
  return sub(blob, IN_PROGRESS_PAYLOAD, find(blob, '\0', IN_PROGRESS_PAYLOAD, true))
end
