"""Uses, explains and exports what was trained."""
