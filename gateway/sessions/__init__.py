"""What this process knows of its connected devices: who is connected, and whose tokens are revoked."""
