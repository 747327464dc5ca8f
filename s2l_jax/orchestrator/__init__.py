"""The orchestrator: owns sessions, drives one engine, and protects both from clients."""
