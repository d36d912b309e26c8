"""Measured comparisons. They import engine and kernels; nobody imports them."""
