"""Makes up traces whose statistics are those of published workloads, from a seed."""
