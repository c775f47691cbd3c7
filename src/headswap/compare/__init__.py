"""The comparison wing: reads what the cells wrote; tables, intervals, claims, plots, report."""
