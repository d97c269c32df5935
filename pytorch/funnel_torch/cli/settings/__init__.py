"""The settings of the programs, one module each; none imports PyTorch."""
