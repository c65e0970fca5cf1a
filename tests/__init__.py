"""Callgate's tests, by the part they are about."""
