"""Networks from other libraries, and solvers in their loops. Modules are imported by name, as each needs the library that it serves.

from scoresde.interop import diffusers, k_diffusion, sbi
"""
