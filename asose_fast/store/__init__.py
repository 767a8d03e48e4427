"""What is written into run folders, and read from them."""
