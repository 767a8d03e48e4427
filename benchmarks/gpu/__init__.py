"""What is to be measured on a GPU, one file a question: `python -m benchmarks.gpu`."""
