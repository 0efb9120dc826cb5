"""Devices, programs on them, progress, signals, provenance and records."""
