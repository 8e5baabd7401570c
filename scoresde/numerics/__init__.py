"""Mathematics that knows no diffusion: noise sources, quadrature, an ODE integrator, Jacobian products, batches, files."""
