-- The flat reply of a batch: for each operation its code and then what belongs to it, of a length fixed by its letter.

local ANSWERS = { S = 3, C = 3, D = 3, E = 4, F = 4, A = 1, a = 1, X = 3, x = 3, Y = 3, y = 3 }

local reply, replied = {}, 0

local function answer_code(code)
  replied = replied + 1
  reply[replied] = code
end

local function answer_start(code, admitted_at_ms, remaining_seconds)
  reply[replied + 1], reply[replied + 2], reply[replied + 3] = code, admitted_at_ms, remaining_seconds
  replied = replied + 3
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
