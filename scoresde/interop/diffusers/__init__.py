"""diffusers: its networks and schedulers as models, and solvers in its pipelines."""
