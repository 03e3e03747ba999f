"""Forced JSON and tool calls: what a schema asks for, its limits, and the masks made of it."""
