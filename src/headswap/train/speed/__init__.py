"""What is here for speed alone: each module says what it gains, and where (benchmarks/ABLATION.md).

None of them changes what is computed, beyond the last digits.
"""
