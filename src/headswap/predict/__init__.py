"""The prediction wing: what was trained is used, explained and exported."""
