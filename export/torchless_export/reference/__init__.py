"""The architectures in plain NumPy: the judge of an export where PyTorch is not installed.

Each forward pass is written from the architecture's definition and does all of it: every layer for every token, no
weight folded into another, nothing left out that the answer does not need. It shares no code with what it judges.
Products of matrices are float32, as in the original; whatever is cheap (softmax, normalization, activation functions)
is computed in float64 and rounded once.
"""

from torchless_export.reference.numpy_reference import NumPyReference

__all__ = ["NumPyReference"]
