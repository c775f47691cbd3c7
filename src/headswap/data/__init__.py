"""The data wing: brings the photographs here and verifies them. It needs no torch."""
