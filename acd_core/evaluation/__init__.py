"""How safe, and at what cost: benchmarks, judges with known error, the harness and its report."""
