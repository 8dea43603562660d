"""Handlers on an asyncio loop.  No module here is imported without such a handler."""
