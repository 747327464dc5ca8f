"""Engines in processes of their own: planned for here, executed there."""
