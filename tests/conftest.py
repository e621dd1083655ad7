"""One thread: what the tests compare must not depend on how sums are split over cores."""

import torch

torch.set_num_threads(1)
