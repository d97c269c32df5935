"""CPU and GPU kernels behind plain interfaces: ``Linear``, ``Dropout``, ``attention``, int8.

Nothing here imports a model; the model code reads as if it used PyTorch's own layers.
"""
