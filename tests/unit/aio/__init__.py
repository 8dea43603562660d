"""asyncio handlers."""
