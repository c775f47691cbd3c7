"""What all share about images: what an image is, how one is read, the index of the verified."""
