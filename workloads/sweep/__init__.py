"""Grids of simulations: which load, on which hardware, run in which way, gives which waiting times."""
