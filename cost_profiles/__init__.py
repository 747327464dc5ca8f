"""Latency profiles: what steps and page copies cost on a machine, measured, fitted and kept."""
