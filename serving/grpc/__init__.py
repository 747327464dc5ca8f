"""The gRPC server: `s2l.v1` and JetStream's services over one orchestrator."""
