"""What the adapters and harness plug-ins share: nothing here knows a framework."""
