"""What is here for speed alone (benchmarks/ABLATION.md); it changes the last digits at most."""
