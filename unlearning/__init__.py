"""What forgets: scope, erasure through ports, probes, certificates, the transparency log."""
