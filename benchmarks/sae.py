"""A training step of a sparse autoencoder, in several ways, in one run on one core.

    python benchmarks/sae.py [--peers FOLDER]

Width 128 to 1024 latents, batch 4096, Adam; a step is the gradients, the decoder's rows kept at length 1, and Adam's
update. The ways take turns, and a time is the lower quartile of processor seconds, so another program on the machine
disturbs little. With `--peers`, environments of their own are made in that folder for sae-lens and dictionary-learning
(they cannot be installed beside this course's TransformerLens), and their steps are timed in turn with ours.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from mechlib.sae import SAE, closed_form_gradients, plain_gradients
from mechlib.sae.training import _update

BATCH, D_IN, D_SAE, K, L1, STEPS, ROUNDS = 4096, 128, 1024, 32, 0.1, 10, 3
CASES = {"topk": f"TopK, k = {K}", "relu": "ReLU + L1"}
PEERS = ("sae-lens", "dictionary-learning")
WAYS = {"plain": plain_gradients, "closed form": closed_form_gradients}


def seconds(step: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(STEPS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return times


def ours(kind: str, gradients: Callable) -> Callable[[], None]:
    sae = SAE(D_IN, D_SAE, kind, k=K if kind == "topk" else None, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(1))

    def step() -> None:
        gradients(sae, x, L1)
        _update(sae, optimizer)

    return step


def quartile(times: list[float]) -> float:
    """In milliseconds."""
    return 1000 * sorted(times)[len(times) // 4]


def python_of(peer: str, folder: Path) -> Path:
    """The Python of the peer's environment, which is made if need be."""
    python = folder / peer / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        venv.create(folder / peer, with_pip=True)
        torch_here = f"torch=={torch.__version__.split('+')[0]}"  # the same one, so that only the peer differs
        subprocess.run([python, "-m", "pip", "install", "-q", torch_here, peer], check=True)
        # No step needs it, and one that was built for another torch cannot even be imported.
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "torchvision"], check=True)
    return python


def peer_step(python: Path, peer: str) -> dict:
    script = Path(__file__).parent / "sae_peers.py"
    run = subprocess.run([python, script, peer], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def measure(peers: Path | None) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Milliseconds a step of every way for each case, and the peers' versions."""
    pythons = {peer: python_of(peer, peers) for peer in PEERS} if peers else {}
    steps = {case: {way: ours(case, gradients) for way, gradients in WAYS.items()} for case in CASES}
    times: dict[str, dict[str, list[float]]] = {case: {way: [] for way in WAYS} for case in CASES}
    found: dict[str, list[dict]] = {peer: [] for peer in pythons}
    for _ in range(ROUNDS):
        for case in CASES:
            for way, step in steps[case].items():
                times[case][way] += seconds(step)
        for peer, python in pythons.items():
            found[peer].append(peer_step(python, peer))
    result = {case: {way: quartile(every) for way, every in times[case].items()} for case in CASES}
    for peer, runs in found.items():
        for case in CASES:
            result[case][peer] = min(run[case] for run in runs)
    return result, {peer: f"{runs[0]['version']} (torch {runs[0]['torch']})" for peer, runs in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time a training step of a sparse autoencoder.")
    parser.add_argument("--peers", type=Path, help="a folder for the peers' environments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result, versions = measure(options.peers)
    print("# A training step of a sparse autoencoder\n")
    print(f"{date.today()}, {platform.machine()}, one thread, torch {torch.__version__}. Width {D_IN} to {D_SAE},")
    print(f"batch {BATCH}, Adam. Made by `python benchmarks/sae.py --peers FOLDER`.")
    if versions:
        print("Peers: " + ", ".join(f"{peer} {version}" for peer, version in versions.items()) + ".")
    print("\nMilliseconds of processor time a step; the ratio is that way's time to our closed form's.\n")
    ways = list(next(iter(result.values())))
    print("| | " + " | ".join(ways) + " |\n|---" + "|---" * len(ways) + "|")
    for case, name in CASES.items():
        fast = result[case]["closed form"]
        print(f"| {name} | " + " | ".join(f"{ms:.1f} (**{ms / fast:.2f}**)" for ms in result[case].values()) + " |")
    slower = [case for case, row in result.items() if row["closed form"] > min(row.values())]
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
