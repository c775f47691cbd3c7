"""What the wings share about images: what an image is, how one is read, the order of classes."""
