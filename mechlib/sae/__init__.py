"""Sparse autoencoders: find features without being told them, judge them, use them.

    model.py         SAE: encode, decode, three activation functions; the losses
    training.py      train one: unit decoder rows, dead latents, checkpoints
    closed_form.py   the same gradients without autograd, faster
    measures.py      how good it is: l0, explained variance, loss recovered, density, known features found
    features.py      what one feature is: examples, effect on the logits, precision and recall against a concept
    steering.py      an SAE inside a running model: clamp a feature, remove it, keep the error term
    files.py         save, load, SAEs of sae-lens
    toy.py           an SAE for a toy model of superposition, whose features are known

Shapes are written in words; the same letters name the same thing everywhere:

    x        *lead d_in      activations of a model at one site (a hook point such as "blocks.2.hook_resid_post")
    codes    *lead latent    how much of each feature an SAE sees in x; most are 0
    W_dec    latent d_in     the direction that each feature writes, of length 1

A *latent* is a unit of the SAE; a *feature* is what we hope that it stands for.
"""

from mechlib.sae.closed_form import closed_form_gradients
from mechlib.sae.features import (
    Detector,
    best_detectors,
    examples_by_level,
    logit_effect,
    precision_recall_by_level,
    top_activations,
)
from mechlib.sae.files import from_sae_lens, load, names, save
from mechlib.sae.measures import (
    SpliceLosses,
    dead_fraction,
    density,
    density_histogram,
    explained_variance,
    l0,
    loss_recovered,
    mean_max_cosine_similarity,
    splice_losses,
)
from mechlib.sae.model import SAE, heaviside, jumprelu, jumprelu_l0_loss, relu_l1_loss, squared_error, topk_activation
from mechlib.sae.steering import ablate_feature, error_term, read_site, run_with_sae, steer
from mechlib.sae.training import normalise_decoder, plain_gradients, remove_parallel_gradient, resample_dead, train

__all__ = [
    "SAE",
    "Detector",
    "SpliceLosses",
    "ablate_feature",
    "best_detectors",
    "closed_form_gradients",
    "dead_fraction",
    "density",
    "density_histogram",
    "error_term",
    "examples_by_level",
    "explained_variance",
    "from_sae_lens",
    "heaviside",
    "jumprelu",
    "jumprelu_l0_loss",
    "l0",
    "load",
    "logit_effect",
    "loss_recovered",
    "mean_max_cosine_similarity",
    "names",
    "normalise_decoder",
    "plain_gradients",
    "precision_recall_by_level",
    "read_site",
    "relu_l1_loss",
    "remove_parallel_gradient",
    "resample_dead",
    "run_with_sae",
    "splice_losses",
    "save",
    "squared_error",
    "steer",
    "top_activations",
    "topk_activation",
    "train",
]
