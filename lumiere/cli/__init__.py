"""The command `lumiere`: `app` defines the commands, and the other modules do the work."""

from lumiere.start import switch_telemetry_off

switch_telemetry_off()  # before the other modules import packages that read the switches
