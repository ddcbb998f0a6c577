"""LoRA for the Segment Anything Model on electron micrographs: the tested core."""
