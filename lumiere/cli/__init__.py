"""The command `lumiere`: `app` defines the commands, and the other modules do the work."""
