"""What a finished network says of the test images, how that divides among classes, and the worst mistakes."""
