"""The rules of Callgate, pure: no clock, no network, no logging; the standard library and `whenever` only.

Rules are cited by their numbers (`R7`), as docs/rulebook.md has them. Time is integer milliseconds UTC and is
always an argument; what is billed is integer seconds.
"""
