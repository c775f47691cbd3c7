"""The comparison: reads what the cells wrote; tables, intervals, claims, plots, report."""
