"""The gateway's face to the world: HTTP, the device WebSocket, their wire format, tokens and problems."""
