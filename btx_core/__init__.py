"""Tensors: mixing, training and measuring models; it knows no registry."""
