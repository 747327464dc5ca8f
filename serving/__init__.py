"""Servers, client library and command line."""
