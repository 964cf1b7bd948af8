"""One way to load any model: those that come with the course, a local folder, or a name on the Hugging Face hub.

    model = load("pocket")                    # comes with mechlib, needs no network
    model = load("runs/my-model")             # a folder in Hugging Face layout
    model = load("gpt2", processed=True)      # downloaded once, then kept; LayerNorms folded, weights centred

All of them come back as a TransformerLens TransformerBridge, ready to be read and edited with hooks (`HOOKS`).

A model comes with the course when its folder `mechlib/models/NAME/` holds `config.json`, `model.safetensors`,
`tokenizer.json` and `card.json`. The card is a JSON object that `mechlib train` writes; of its entries, `sha256` (the
weights' checksum) is verified at every load, and `mechlib models` shows `architecture.parameters` and `skills`. A model
that was made to have a circuit also has `truth.json`, which says where that is (`truth`).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechlib.models import circuit
from mechlib.models.circuit import Circuit

if TYPE_CHECKING:
    import torch

SHIPPED = Path(__file__).parent
WEIGHTS = "model.safetensors"
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
# The hub's names without an owner that the course mentions; any other hub name has the form owner/name.
BARE_HUB_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
# How many seconds the hub has to answer.
PATIENCE = 10.0

# The hooks that the chapters use: once a model, once a block, and those that a switch of the model turns on.
HOOKS = ("hook_embed", "hook_pos_embed", "ln_final.hook_scale", "ln_final.hook_normalized")
BLOCK_HOOKS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "mlp.hook_pre",
    "mlp.hook_post",
)
SWITCHED_HOOKS = {
    "attn.hook_result": "set_use_attn_result",  # each head's own output
    "hook_q_input": "set_use_split_qkv_input",  # the residual stream as each head's queries, keys, values read it
    "hook_k_input": "set_use_split_qkv_input",
    "hook_v_input": "set_use_split_qkv_input",
    "hook_mlp_in": "set_use_hook_mlp_in",
}


class ModelError(Exception):
    """A model cannot be loaded; the message is one sentence that says why and what to do."""


# ---- loading


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    processed: bool = False,
    checkpoint: int | None = None,
) -> Any:
    """The model of that name as a TransformerBridge: eval mode, float32, no gradients for its parameters.

    `name` is a model that comes with the course (`names()`), a folder in Hugging Face layout, or a name on the
    hub, looked up in this order. The device is a GPU if there is one, unless it is given. `processed` folds the
    LayerNorms into the weights and centres what is written and read, which changes no probability. `checkpoint`
    is a step of the training, one of `checkpoints(name)`. Raises ModelError with one sentence if that cannot be
    done.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = pick_device(device)
    where = _find(name)
    weights = where if checkpoint is None else _checkpoint(name, Path(where), checkpoint)
    with _unnoticed(), _in_a_sentence(name):
        config = AutoConfig.from_pretrained(where)
        options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
        loaded: Any = AutoModelForCausalLM.from_pretrained(weights, config=config, output_loading_info=True, **options)
        network, report = loaded
        if missing := sorted(report["missing_keys"]):  # transformers would draw them at random
            raise ModelError(f"{str(name)!r} lacks weights that its config asks for: {', '.join(missing[:3])}.")
        return bridge(network, AutoTokenizer.from_pretrained(where), device, processed, label=_label(name))


def _label(name: str | Path) -> str:
    """What the bridge calls a model. A shipped name alone may be one that TransformerLens once gave to another."""
    return f"mechlib/{name}" if str(name) in names() else str(name)


def random_twin(
    name: str | Path, seed: int = 0, device: str | torch.device | None = None, processed: bool = False
) -> Any:
    """A control: the same architecture and tokenizer with the random weights that training would start from.

    The seed decides them, whatever was drawn before. Attention-only models (written as GPT-2 with one neuron
    and zero MLP weights) have attention-only twins. Raises ModelError as `load` does.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = pick_device(device)
    where = _find(name, weights=False)
    with _unnoticed(), _in_a_sentence(name):
        config = AutoConfig.from_pretrained(where)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPUs' generators too
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
        if getattr(config, "n_inner", None) == 1:
            for part, parameter in network.named_parameters():
                if ".mlp." in part:
                    torch.nn.init.zeros_(parameter)
        return bridge(network, AutoTokenizer.from_pretrained(where), device, processed, label=f"random {name}")


def bridge(
    network: Any,
    tokenizer: Any,
    device: str | torch.device | None = None,
    processed: bool = False,
    label: str = "by hand",
) -> Any:
    """A transformers model and its tokenizer as `load` returns them. The model is changed in place."""
    from transformer_lens.model_bridge import TransformerBridge

    device = pick_device(device)
    with _unnoticed():
        tokenizer.init_kwargs.setdefault("name_or_path", label)  # the bridge asks a tokenizer for its name
        model = TransformerBridge.boot_transformers(
            label, hf_model=network.to(device), tokenizer=tokenizer, device=device
        )
        if processed:
            model.enable_compatibility_mode(disable_warnings=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, else a GPU if there is one, else the CPU."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ModelError(f"{device!r} is not a device: write 'cpu', 'cuda' or 'cuda:0'.") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("There is no CUDA device here: leave `device` out, or write device='cpu'.")
    return chosen


# ---- the models that come with the course


def names() -> list[str]:
    """The models that come with the course."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/card.json"))


def listing() -> list[dict[str, Any]]:
    """The models that come with the course, with what their cards say of their size and skills."""
    return [
        {
            "name": name,
            "summary": content.get("summary", ""),
            "parameters": content.get("architecture", {}).get("parameters"),
            "megabytes": round((SHIPPED / name / WEIGHTS).stat().st_size / 1e6, 2),
            "skills": content.get("skills", {}),
        }
        for name, content in ((name, card(name)) for name in names())
    ]


def card(name: str | Path) -> dict[str, Any]:
    """What is known about a model: how it was made and what it can do. Raises ModelError if it has no card."""
    folder = _folder(name)
    if not (folder / "card.json").is_file():
        known = f"only {', '.join(names())} have one" if names() else "no model that comes with the course has one"
        raise ModelError(f"There is no card for {str(name)!r}{did_you_mean(str(name), names())}: {known}.")
    return _json(folder / "card.json")


def truth(name: str | Path) -> Circuit:
    """Which heads of a model carry what, as training put it there and measurements confirmed it.

    Only models that were made to have a circuit, such as "ioi-known", have a truth file. Raises ModelError for others.
    """
    file = _folder(name) / circuit.FILE
    if not has_truth(name):
        known = [known for known in names() if has_truth(known)]
        raise ModelError(
            f"There is no {circuit.FILE} for {str(name)!r}{did_you_mean(str(name), known)}: only models that were made "
            "to have a circuit have one" + (f" ({', '.join(known)})." if known else ".")
        )
    try:
        return circuit.read(file)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file} is damaged: {type(error).__name__}: {error}.") from None


def has_truth(name: str | Path) -> bool:
    return (_folder(name) / circuit.FILE).is_file()


def checkpoints(name: str | Path) -> list[int]:
    """The steps of a model's training that were kept, for `load(name, checkpoint=step)`."""
    folder = _folder(name) / "checkpoints"
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*") if (path / WEIGHTS).is_file())


def _folder(name: str | Path) -> Path:
    return SHIPPED / name if str(name) in names() else Path(name).expanduser()


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """` (did you mean a or b?)` with the names nearest to `name`, or nothing."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


# ---- where a name leads


def _find(name: str | Path, weights: bool = True) -> str:
    """The folder, or the hub name, behind a name; checked as far as that needs no loading."""
    text = str(name)
    if text in names():
        return str(_checked(SHIPPED / text, weights))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(_checked(folder, weights))
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(f"There is no folder {text}.")
    if "/" not in text and text not in BARE_HUB_NAMES:
        raise _unknown(text)
    return _on_the_hub(text, weights)


def _unknown(name: str) -> ModelError:
    known = [*names(), *BARE_HUB_NAMES]
    return ModelError(
        f"There is no model {name!r}{did_you_mean(name, known)}: write one of {', '.join(known)}, "
        "a hub name like owner/name, or a folder."
    )


def _checked(folder: Path, weights: bool) -> Path:
    """The folder, after looking at its files; raises ModelError for what is missing or changed."""
    config = _json(folder / "config.json")
    if "model_type" not in config:
        raise ModelError(f"{folder / 'config.json'} is damaged: it has no model_type.")
    if weights and not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise ModelError(f"{folder} has no weights ({WEIGHTS}): save them with model.save_pretrained(folder).")
    if not any((folder / file).is_file() for file in TOKENIZERS):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json): save it with tokenizer.save_pretrained(folder).")
    if weights and (folder / "card.json").is_file():
        _check(folder / WEIGHTS, _json(folder / "card.json").get("sha256"))
    return folder


def _checkpoint(name: str | Path, folder: Path, step: int) -> Path:
    """The folder with the weights of a step of the training."""
    kept = checkpoints(name)
    if step not in kept:
        known = f"there are {', '.join(map(str, kept))}" if kept else "there are none"
        raise ModelError(f"{str(name)!r} has no checkpoint {step}: {known}.")
    weights = Path("checkpoints", f"step-{step:05}", WEIGHTS)
    if (folder / "card.json").is_file():
        _check(folder / weights, _json(folder / "card.json").get("checkpoints", {}).get(weights.as_posix()))
    return (folder / weights).parent


def _check(path: Path, expected: str | None) -> None:
    if expected and _checksum(path) != expected:
        raise ModelError(
            f"{path} is not the file that its card describes (the checksum differs): get it again, for example by "
            "installing mechlib anew."
        )


def _checksum(path: Path) -> str:
    if not path.is_file():
        return "no file"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it holds no JSON object.")
    return content


def _on_the_hub(name: str, weights: bool) -> str:
    """The hub name if the hub knows it, or the folder of an earlier download if there is no network.

    One question with a time limit comes first: without a network, the libraries below ask again and again.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        _in_time(lambda: HfApi().model_info(name, timeout=PATIENCE))
        return name
    except HFValidationError:
        raise _unknown(name) from None
    except GatedRepoError:
        raise ModelError(
            f"{name!r} is open only to those who accepted its terms: do that on its page, then log in with "
            "`hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise _unknown(name) from None
    except Exception as error:  # offline mode, no route, no name server, a proxy, a time-out: all mean no network
        try:
            return str(_checked(Path(snapshot_download(name, local_files_only=True)), weights))
        except Exception:
            raise ModelError(
                f"{name!r} is not on this machine and the hub cannot be reached ({type(error).__name__}): connect and "
                "try again, copy its folder here and load that, or take a model that needs no network"
                + (f" ({', '.join(names())})." if names() else ".")
            ) from None


def _in_time(ask: Callable[[], Any]) -> None:
    """Ask, and give up after a while: a request's own time limit does not cover the search for the address."""
    errors: list[Exception] = [TimeoutError()]

    def target() -> None:
        try:
            ask()
            errors.clear()
        except Exception as error:
            errors[:] = [error]

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    if errors:
        raise errors[0]


# ---- what the libraries below say


@contextlib.contextmanager
def _in_a_sentence(name: str | Path) -> Iterator[None]:
    """Say in one sentence what the libraries say in many."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        said = said if len(said) <= 300 else said[:300] + "..."
        raise ModelError(f"{str(name)!r} cannot be loaded: {said.rstrip('.')}.") from error


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """No progress bars or advice on stderr, where a graded notebook would show them, and no draws from torch's
    global generator: making a bridge draws weights and drops them."""
    import torch
    from transformers.utils import logging

    showing = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            yield
    finally:
        if showing:
            logging.enable_progress_bar()
