"""Inference with trained networks: folded for speed, blended, and applied to images of any size in tiles."""
from npsrgan.inference.folding import blend, fold
from npsrgan.inference.tiles import SMALLEST, apply_in_tiles, choose_tile, free_memory, super_resolve_tiles

__all__ = ["SMALLEST", "blend", "choose_tile", "fold", "free_memory", "apply_in_tiles", "super_resolve_tiles"]
