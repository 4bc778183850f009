"""One thread per test process: results do not depend on how many tests run side by side."""

import torch

torch.set_num_threads(1)
