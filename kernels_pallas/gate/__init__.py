"""Compiles kernels for devices that are not there, and reads what their compilers say of them."""
