"""The live pool in Redis: keys, scripts, packed values, batching, and what can be asked of a pool."""
