"""imatrix_difference.py A B: both know the same tensors. Prints the largest relative difference of a mean square, where it is above a
thousandth of the tensor's mean."""
import sys

import numpy as np
from gguf import GGUFReader


def means(path):
    values = {tensor.name: tensor.data.astype(np.float64) for tensor in GGUFReader(path).tensors}
    names = [name.removesuffix(".in_sum2") for name in values if name.endswith(".in_sum2")]
    return {name: values[f"{name}.in_sum2"] / values[f"{name}.counts"].reshape(-1, 1) for name in names}


a, b = (means(path) for path in sys.argv[1:])
if a.keys() != b.keys():
    sys.exit(f"only one of them knows {sorted(a.keys() ^ b.keys())}")
worst = 0.0
for name, mean in a.items():
    large = b[name] > b[name].mean() / 1000
    worst = max(worst, float((np.abs(mean / np.maximum(b[name], 1e-30) - 1)[large]).max()))
print(worst)
