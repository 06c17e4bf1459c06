"""Distances between sets of videos, their floors and intervals."""
