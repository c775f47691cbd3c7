"""What is here for speed alone; the first line of each module says what it gains.

The figures are from benchmarks/ABLATION.md. None changes what is computed, beyond the last digits.
"""
