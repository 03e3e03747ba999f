"""From a conversation and settings to a reply: planned, driven through the engine, read, and handed on as events."""
