"""The command `lumiere`: `app` has the commands and their options, the other modules do the work."""
