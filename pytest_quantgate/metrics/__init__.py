"""Observations and the metrics computed from them: one file per kind of observation."""
