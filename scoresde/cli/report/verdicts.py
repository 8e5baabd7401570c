"""What the numbers of a diagnosis mean, in words."""

from __future__ import annotations

from .diagnosis import FIELD_SAMPLES, Diagnosis, Field

# |A|/|J| of a Jacobian whose entries have nothing to do with each other: half of |J|^2 is antisymmetric.
UNRELATED = 0.5**0.5
# 1 % of |J|^2, and of the squared change in time.
SMALL = 0.1
# A mean over fewer samples has a standard error above a tenth of their standard deviation.
ENOUGH = 100
# Standard errors beyond which a difference is not of chance.
CLEAR = 3.0


def verdicts(diagnosis: Diagnosis) -> list[str]:
    """A sentence for each measurement that theory gives a value to compare with, and one where the samples are few."""
    found = [
        asymmetry_verdict(max(diagnosis.field, key=lambda point: point.asymmetry)),
        residual_verdict(max(diagnosis.field, key=lambda point: point.residual)),
        loss_verdict(diagnosis),
    ]
    if diagnosis.samples < ENOUGH:
        found.append(
            f"Few samples: {diagnosis.samples} held out. Below {ENOUGH} the standard errors are large, and rough themselves. "
            f"Residual and asymmetry are always of at most {FIELD_SAMPLES}."
        )
    return found


def asymmetry_verdict(worst: Field) -> str:
    """On |A|/|J| at its largest: 0 for a gradient, `UNRELATED` for entries that have nothing to do with each other."""
    numbers = f"Asymmetry of the Jacobian: at most {worst.asymmetry:.2g}, at t = {worst.t:.2g}"
    scale = f"0 is the gradient of a log density, {UNRELATED:.2f} are unrelated entries"
    if worst.asymmetry <= SMALL:
        return f"{numbers}. Nearly a gradient ({scale})."
    share = f"there {worst.asymmetry**2:.0%} of the squared Jacobian belong to no log density"
    if worst.asymmetry <= UNRELATED / 2:
        return f"{numbers}. Not quite a gradient: {share} ({scale})."
    return f"{numbers}. No gradient: {share} ({scale})."


def residual_verdict(worst: Field) -> str:
    """On the largest relative residual: 0 where one density flows through all times, 1 where the equation explains nothing."""
    numbers = f"Fokker-Planck residual: at most {worst.residual:.2g} of the larger of ds/dt and f s, at t = {worst.t:.2g}"
    if worst.residual <= SMALL:
        return f"{numbers}. The scores of all times belong to one density that diffuses (0 is exact)."
    if worst.residual < 1:
        return (
            f"{numbers}. The scores of neighbouring times do not quite belong together (0 is exact, at 1 the equation explains "
            "nothing): the flow and the reverse SDE sample different densities."
        )
    return (
        f"{numbers}. The scores of neighbouring times do not belong together (0 is exact, from 1 on the equation explains nothing): "
        "likelihoods of the flow are not those of the reverse SDE."
    )


def loss_verdict(diagnosis: Diagnosis) -> str:
    """On the held-out loss beside the training loss and that of a network that returns 0."""
    held_out, training = diagnosis.losses["held-out"], diagnosis.losses["training"].loss
    loss, zero = held_out.loss, held_out.zero
    # Next to the data nobody can tell the noise from them, and the best network returns nearly 0: worse is a fault there, and equal is none.
    excess, chance = loss.mean - zero.mean, CLEAR * (loss.stderr**2 + zero.stderr**2).sqrt()
    worse = [float(t) for t, more, e in zip(loss.t, excess, chance, strict=True) if more > e]
    if 2 * int((excess >= 0).sum()) > len(excess):
        worse = loss.t[excess >= 0].tolist()
    if worse:
        where = f"t = {min(worse):.2g}" + (f" to {max(worse):.2g}" if len(worse) > 1 else "")
        return f"Loss: at {where} the network is no better than one that returns 0. scoresde check says why."
    error = (loss.stderr**2 + training.stderr**2).sqrt()
    apart = [float(t) for t, gap, e in zip(loss.t, loss.mean - training.mean, error, strict=True) if gap > CLEAR * e]
    if apart:
        return (
            f"Loss: larger on held-out than on training samples at {len(apart)} of {len(loss.t)} times, by more than {CLEAR:g} "
            "standard errors: the network has memorised training data."
        )
    return "Loss: held-out and training samples agree within their errors, below that of a network that returns 0."
