"""Which runs there are: their keys, where they are kept, locked, placed on workers, collected."""
