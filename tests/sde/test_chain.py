"""The tables of a chain: what other transforms of torch make of them."""

import pytest
import torch

import scoresde as ss


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_tables_are_read_under_nested_transforms():
    """Inside a step the integral of beta is linear in t, so d^2 log alpha / dt^2 = 0."""
    chain = ss.VPSDE.from_betas(torch.linspace(0.01, 0.3, 10))
    t = torch.tensor([0.13, 0.52, 0.97], dtype=torch.float64)

    def log_alpha(t):
        return chain.alpha(t).log()

    for second in (
        torch.func.hessian(log_alpha),
        torch.func.jacrev(torch.func.jacrev(log_alpha)),
        torch.func.jacfwd(torch.func.jacfwd(log_alpha)),
    ):
        torch.testing.assert_close(torch.func.vmap(second)(t), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(log_alpha))(t), -0.5 * chain.beta(t), rtol=1e-12, atol=0)
