"""What the rest of softstop needs from asyncio and anyio."""
