"""How a checkpoint is loaded and run: one file per engine. The only place, with quantizers, that imports torch."""
