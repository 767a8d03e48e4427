"""What can be told of the GPU engine without a GPU: what its kernels compile to, what a layer launches and moves."""
