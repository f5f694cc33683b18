"""How a checkpoint is loaded and run: one file per engine. Only it and `quantizers` import torch."""
