"""What makes training and inference fast on a CPU, behind drop-in replacements for PyTorch.

`Conv2d`, `ConvTranspose2d` and `InstanceNorm2d` replace the modules of `torch.nn`; `Adam`, in
`kernels.optimizer`, which only training imports, that of `torch.optim`. They use the compiled
functions of `kernels.cpp` if those were built for this machine and pay off, and PyTorch's own
functions otherwise. Other packages import nothing else of this one.
"""

from mrbridge.kernels.convolution import Conv2d, ConvTranspose2d, weight_cache
from mrbridge.kernels.norm import InstanceNorm2d

__all__ = ["Conv2d", "ConvTranspose2d", "InstanceNorm2d", "weight_cache"]
