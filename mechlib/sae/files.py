"""Sparse autoencoders on disk: a folder with `sae.safetensors` and `card.json`; and those that sae-lens saved.

    sae = load("pocket")               # comes with mechlib
    sae = load("runs/my-sae")          # a folder that `save` wrote
    sae = from_sae_lens("owner/name", "blocks.8.hook_resid_pre")   # from the hub, or from a local folder

`sae.card` is what is known about one: which model and site it was trained on, how, and how good it is.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechlib.sae.model import SAE

SHIPPED = Path(__file__).parent / "shipped"
WEIGHTS, CARD = "sae.safetensors", "card.json"
SHAPE = ("d_in", "d_sae", "activation", "k", "bandwidth")


class SAEError(Exception):
    """A sparse autoencoder cannot be loaded; the message is one sentence that says why and what to do."""


def names() -> list[str]:
    """The sparse autoencoders that come with the course."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}"))


def save(sae: SAE, folder: str | Path, card: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32) -> None:
    """Write `sae.safetensors` (in `dtype`) and `card.json`: the given card with the SAE's shape and the weights'
    checksum. The folder is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in sae.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    shape = {name: getattr(sae, name) for name in SHAPE}
    card = {**(card or {}), "sae": shape, "sha256": _checksum(folder / WEIGHTS)}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load(name: str | Path) -> SAE:
    """An SAE that comes with the course (`names()`), or one from a folder that `save` wrote: float32, on the CPU, no
    gradients, its card in `.card`. Raises SAEError with one sentence if that cannot be done."""
    folder = SHIPPED / name if str(name) in names() else Path(name).expanduser()
    if not (folder / CARD).is_file():
        raise SAEError(
            f"there is no sparse autoencoder {str(name)!r}: write one of {', '.join(names())}, or a folder with "
            f"{WEIGHTS} and {CARD}."
        )
    card = _json(folder / CARD)
    if not (folder / WEIGHTS).is_file():
        raise SAEError(f"{folder} has a card and no {WEIGHTS}: get it again.")
    if _checksum(folder / WEIGHTS) != card.get("sha256"):
        raise SAEError(f"{folder / WEIGHTS} is not the file that its card describes: get it again.")
    return _build(card.get("sae") or {}, load_file(folder / WEIGHTS), card)


def _build(shape: dict[str, Any], weights: dict[str, Tensor], card: dict[str, Any]) -> SAE:
    try:
        sae = SAE(**shape, generator=torch.Generator())
        sae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise SAEError(f"the weights do not fit what is said about them ({reason}): get both again.") from None
    sae.card = card
    return sae.eval().requires_grad_(False)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SAEError(f"{path} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise SAEError(f"{path} is damaged: it holds no JSON object.")
    return content


# ---- sae-lens

LENS_CONFIG, LENS_WEIGHTS = "cfg.json", "sae_weights.safetensors"
LENS_ARCHITECTURES = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}


def from_sae_lens(where: str | Path, folder: str = "") -> SAE:
    """An SAE that sae-lens saved, from a local folder or from the hub: `where` is the repository's name there, and
    `folder` the folder inside. `.card` is its configuration.

    The codes are those that sae-lens computes. Understood are the architectures standard, topk and jumprelu in the
    formats of versions 3 to 6, without run-time normalisation of the activations; others, and files that are missing
    or damaged, raise SAEError with one sentence. The decoder's rows keep the length that they have.
    """
    at = Path(where).expanduser()
    if (at / folder).is_dir():
        files = [at / folder / LENS_CONFIG, at / folder / LENS_WEIGHTS]
        if missing := [file.name for file in files if not file.is_file()]:
            raise SAEError(f"{at / folder} has no {' and no '.join(missing)}: sae-lens saves both.")
    elif folder and at.is_dir():
        raise SAEError(f"{at} has no folder {folder!r}: name one of those that it has.")
    else:
        files = [_download(str(where), f"{folder}/{name}".lstrip("/")) for name in (LENS_CONFIG, LENS_WEIGHTS)]
    config = _json(files[0])
    try:
        return _translate(config, load_file(files[1]))
    except SafetensorError as error:
        raise SAEError(f"{files[1]} is damaged: {error}.") from None


def _download(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # no such name, no such file, no network: each has many classes
        raise SAEError(
            f"{repository!r} is no folder here, and {file} cannot be had from the hub ({type(error).__name__}): check "
            "both names and the connection, or copy the folder here."
        ) from None


def _translate(config: dict[str, Any], weights: dict[str, Tensor]) -> SAE:
    """sae-lens's parameters as ours. The names are the same; two options change what they mean."""
    kind, k = config.get("architecture", "standard"), config.get("k")
    if config.get("activation_fn_str", config.get("activation_fn")) == "topk":  # before version 6
        kind, k = "topk", (config.get("activation_fn_kwargs") or {}).get("k")
    if kind not in LENS_ARCHITECTURES:
        raise SAEError(f"the architecture {kind!r} is not supported: only {', '.join(LENS_ARCHITECTURES)} are.")
    if config.get("normalize_activations") not in (None, False, "none"):
        raise SAEError(
            f"this SAE normalises activations while it runs ({config['normalize_activations']}), which is not "
            "supported: fold that into the weights with sae-lens, and save it again."
        )
    if config.get("reshape_activations", "none") != "none":
        raise SAEError("this SAE reads the outputs of all heads side by side (hook_z), which is not supported.")
    weights = {name: tensor.float() for name, tensor in weights.items()}
    if not (weights.pop("scaling_factor", torch.ones(1)) == 1).all():
        raise SAEError("this SAE has a fine-tuned scaling factor, which is not supported.")
    if kind == "jumprelu" and "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    expected = {"W_enc", "W_dec", "b_enc", "b_dec", *(["threshold"] if kind == "jumprelu" else [])}
    if weights.keys() != expected:
        raise SAEError(
            f"a {kind} SAE has {', '.join(sorted(expected))}; the weights here are {', '.join(sorted(weights))}."
        )
    if kind == "jumprelu":
        weights["log_threshold"] = weights.pop("threshold").log()
    if not config.get("apply_b_dec_to_input", True):  # our encoder subtracts b_dec: the encoder's bias takes it back
        weights["b_enc"] = weights["b_enc"] + weights["b_dec"] @ weights["W_enc"]
    if config.get("rescale_acts_by_decoder_norm"):  # a code is then a length, whatever the decoder's rows have
        length = weights["W_dec"].norm(dim=1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * length, weights["b_enc"] * length
        weights["W_dec"] = weights["W_dec"] / length[:, None]
    d_sae, d_in = weights["W_dec"].shape
    shape = {"d_in": d_in, "d_sae": d_sae, "activation": LENS_ARCHITECTURES[kind], "k": k}
    return _build(shape, weights, config)
