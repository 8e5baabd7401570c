"""The sections of what a run can do beyond a comparison: a bound for each sample, guidance, inpainting."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import guidance, inverse
from ...data import Data
from ...inverse import operators
from ...models.base import Model
from ...numerics.batching import cond_to_device
from ...sampling import sample
from ...tuning import FittedSolver, calibrate
from ...tuning.reference import distance
from .features import Classifier
from .html import Section, Table, number, plotted, strips
from .paired import FINE_STEPS, FineSolve
from .pictures import bound_figure
from .sections import COLUMNS, sample_rows, unit

CONFIDENCE = 0.95
# A tolerance above every bound: a solver of one level has no other to go on to, and the page sets no limit.
ANY = 1e30

# Calls of the solver with guidance, and the weights.
GUIDED_CALLS, WEIGHTS = 10, (0.0, 1.0, 2.0, 4.0)

# The accuracy on held-out samples from which on a classifier can judge others.
TRUSTED = 0.8

# Of the inpainting: images, posterior samples of each, steps, and the standard deviation of the noise of the observation.
OBSERVED, DRAWS, POSTERIOR_STEPS, NOISE = 32, 8, 30, 0.1


def bounds(model: Model, solver: FittedSolver, fine: FineSolve, noises: int, calibration: dict[str, Tensor]) -> Section:
    """Samples sorted by their bound, which are compared with their true errors.

    Args:
        model: the trained model.
        solver: a solver fitted to it.
        fine: the fine solve of new seeds.
        noises: starts of the calibration.
        calibration: conditions of the calibration, tensors with one row for each start.
    """
    cascade = calibrate(
        model,
        fine.x.shape[1:],
        levels=[solver],
        confidence=CONFIDENCE,
        noises=noises,
        cond=cond_to_device(calibration, model.device),
    )
    run = sample(model, fine.x.shape, cascade, tol=ANY, seeds=fine.seeds, trajectory=True, **fine.cond)
    x, bound = run.x.cpu(), run.bound
    assert bound is not None
    error = distance(x, fine.x)
    # From the smallest bound to the largest, at equal distances.
    order = bound.argsort()[torch.linspace(0, len(bound) - 1, min(COLUMNS, len(bound))).round().long()]
    worst = int(error.argmax())
    if worst not in order:  # the worst sample is never left out
        order = torch.cat([order[:-1], order.new_tensor([worst])])
        order = order[bound[order].argsort()]
    chance = 2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) * (2 / noises + 1 / len(error)))
    held = int((error <= bound).sum())
    rows = [("bound", *(number(float(bound[k])) for k in order)), ("error", *(number(float(error[k])) for k in order))]
    seeds = [str(fine.seeds[int(k)]) for k in order]
    pictures = strips(
        {f"fine solve, {FINE_STEPS} calls": fine.x[order], f"{solver.nfe} calls": x[order]}, "samples, sorted by their bound"
    )
    return Section(
        "A bound for each sample",
        [
            f"The fitted solver of {solver.nfe} calls states a bound for each sample on its distance to the fine solve, at no further call. "
            f"The bound is to hold for {CONFIDENCE:.0%} of new samples; it does for {held} of {len(error)}. With so few starts and samples the "
            f"share is off by up to {chance:.0%} by chance."
        ],
        table=Table(("seed", *seeds), rows),
        pictures=[
            *pictures,
            plotted(bound_figure(bound, error), "Each dot is a sample; below the line the bound holds.", "error by bound"),
        ],
        note=f"Bounds and errors are rms {unit(fine.x)}. n = {len(error)} new samples; calibrated on {noises} others.",
        terms=("bound", "fitted solver", "fine solve", "calls", "rms"),
    )


def guided(model: Model, classifier: Classifier, held_out: Data, classes: int, count: int, batch_size: int) -> Section:
    """Samples of every class by weight of guidance, and how many of them a classifier of the data sees in their class.

    Args:
        model: a conditional model, trained with labels left out.
        classifier: trained on the training data.
        held_out: data, for its accuracy.
        classes: their number.
        count: samples of each weight.
        batch_size: samples drawn at once.
    """
    assert held_out.labels is not None
    label, pictures, rows = torch.arange(count) % classes, {}, []
    for weight in WEIGHTS:
        each = 1 if weight in (0, 1) else 2
        x = sample(
            guidance.Guided(model, weight), (count, *held_out.x.shape[1:]), nfe=GUIDED_CALLS, seeds=range(count), batch_size=batch_size,
            label=label.to(model.device),
        ).cpu()  # fmt: skip
        right = int((classifier.probabilities(x.clamp(-1, 1)).argmax(1) == label).sum())
        rows.append((f"weight {weight:g}", str(each * GUIDED_CALLS), f"{right} of {count}"))
        pictures[f"weight {weight:g}, {each * GUIDED_CALLS} calls"] = x
    accuracy = float((classifier.probabilities(held_out.x).argmax(1) == held_out.labels).double().mean())
    doubt = "" if accuracy >= TRUSTED else f" That is below {TRUSTED:.0%}, so that the column means little."
    section = sample_rows("Classes, with guidance", "", pictures)
    return Section(
        section.title,
        [
            "The columns are the classes in turn, the rows the weights of guidance from the same seeds. The default solver draws them."
        ],
        table=Table(("", "calls", "in their class"), rows),
        pictures=section.pictures,
        note=f"In their class: samples that a classifier, trained on the training data, sees in the class that was asked for. It is right on "
        f"{accuracy:.0%} of {len(held_out.x)} held-out samples.{doubt}",
        terms=("guidance", "calls"),
    )


def inpainted(model: Model, x: Tensor, typical: Tensor) -> Section:
    """Held-out images without their middle, and samples of what may have been there.

    Args:
        model: an unconditional model of images.
        x: images that it has not seen, `(N, channels, height, width)`, on its device.
        typical: the mean of the training images, `(channels, height, width)`.
    """
    x = x[:OBSERVED]
    height, width = x.shape[2:]
    seen = torch.ones(height, width, device=x.device)
    seen[height // 4 : height - height // 4, width // 4 : width - width // 4] = 0
    operator = operators.mask(seen)
    noise = NOISE * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    y = operator(x + noise)
    run = sample(
        inverse.pigdm(model, inverse.Gaussian(operator, NOISE)), (len(x) * DRAWS, *x.shape[1:]), "sde-dpm++2m", steps=POSTERIOR_STEPS,
        seeds=range(len(x) * DRAWS), y=y.repeat_interleave(DRAWS, 0), trajectory=True,
    )  # fmt: skip
    drawn = run.x.reshape(len(x), DRAWS, *x.shape[1:])
    hidden = seen == 0

    def error(guess: Tensor) -> str:
        return number(float((guess - x)[..., hidden].square().mean().sqrt()))

    rows = [
        ("mean of the posterior samples", error(drawn.mean(1))),
        ("one posterior sample", error(drawn[:, 0])),
        ("mean of the training images", error(typical.to(x).expand_as(x))),
    ]
    rows_of = {"truth": x, "observation": y, "posterior sample": drawn[:, 0], "another": drawn[:, 1], "mean": drawn.mean(1)}
    pictures = {name: images[:COLUMNS] for name, images in rows_of.items()}
    return Section(
        "Inpainting",
        [
            "The middle of held-out images is hidden, and noise is on the rest. The network becomes a sampler of what may be there, without "
            "any training."
        ],
        table=Table(("in the hidden pixels", "rms error"), rows),
        pictures=strips(pictures, "images"),
        note=f"Errors are {unit(x)}, over {len(x)} images of {int(hidden.sum())} hidden pixels. The noise has standard deviation {NOISE:g}. "
        f"The mean is over {DRAWS} samples of each image. A single sample is further away, as it is one of several possible images. It takes "
        f"{run.network_calls:g} network calls (pigdm with sde-dpm++2m).",
        terms=("posterior", "rms", "calls"),
    )
