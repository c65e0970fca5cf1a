-- The flat reply of a batch: for each operation its code and then what belongs to it, of a length fixed by its letter.

local ANSWERS = { S = 4, C = 4, D = 4, E = 5, F = 5, A = 1, a = 1, X = 3, x = 3, Y = 3, y = 3, R = 2, r = 2, P = 3, p = 3,
  T = 1, t = 1 }

local reply, replied = {}, 0

local function answer_code(code)
  replied = replied + 1
  reply[replied] = code
end

local function answer_start(code, admitted_at_ms, remaining_seconds, cycle_start_ms)
  reply[replied + 1], reply[replied + 2], reply[replied + 3] = code, admitted_at_ms, remaining_seconds
  reply[replied + 4] = cycle_start_ms
  replied = replied + 4
end

-- `value` is the call's, in progress.
local function answer_resumed(code, value)
  reply[replied + 1], reply[replied + 2] = code, value
  replied = replied + 2
end

-- `value` is the ended call's: one string that is there already, instead of seven numbers.
local function answer_settled(code, value, remaining_seconds)
  reply[replied + 1], reply[replied + 2], reply[replied + 3] = code, value, remaining_seconds
  replied = replied + 3
end

-- An operation that decided nothing: its code, and zeros up to its length.
local function answer_nothing(letter, code)
  for at = 1, ANSWERS[letter] do reply[replied + at] = at == 1 and code or 0 end
  replied = replied + ANSWERS[letter]
end
