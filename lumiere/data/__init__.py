"""Reads and writes videos, shards of clips, and pictures of videos."""
