"""JAX execution of step plans: shape buckets, device buffers, sampling."""
