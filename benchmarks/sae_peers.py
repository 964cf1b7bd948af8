"""What runs in a peer's own environment, because neither installs beside this course's TransformerLens.

    python sae_peers.py sae-lens|dictionary-learning     time a training step: a JSON object {case: milliseconds}
    python sae_peers.py sae-lens FOLDER                  save SAEs as sae-lens does, with inputs and outputs beside them

`benchmarks/sae.py` runs the first and prints the ratios, a test the second.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import torch

BATCH, D_IN, D_SAE, K, L1, LR, STEPS = 4096, 128, 1024, 32, 0.1, 1e-3, 12


def sae_lens(kind):
    from sae_lens.saes import sae as base
    from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    if kind == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K))
        coefficients = {}
    else:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, l1_coefficient=L1))
        coefficients = {"l1": L1}
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR)
    dead = torch.zeros(D_SAE, dtype=torch.bool)

    def step(x, n):
        out = sae.training_forward_pass(
            base.TrainStepInput(
                sae_in=x, coefficients=coefficients, dead_neuron_mask=dead, n_training_steps=n, is_logging_step=False
            )
        )
        optimizer.zero_grad()
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()

    return step


def save_as_sae_lens_does(folder):
    """An SAE of each architecture with random parameters, its input `x`, and the `codes` and `x_hat` that it gives."""
    from sae_lens.saes import jumprelu_sae, standard_sae, topk_sae
    from safetensors.torch import save_file

    shape = {"d_in": 6, "d_sae": 14}
    configs = {
        "standard": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig(**shape)),
        "no_b_dec": (standard_sae.StandardSAE, standard_sae.StandardSAEConfig(**shape, apply_b_dec_to_input=False)),
        "topk": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig(**shape, k=4)),
        "rescaled": (topk_sae.TopKSAE, topk_sae.TopKSAEConfig(**shape, k=4, rescale_acts_by_decoder_norm=True)),
        "jumprelu": (jumprelu_sae.JumpReLUSAE, jumprelu_sae.JumpReLUSAEConfig(**shape)),
    }
    torch.manual_seed(0)
    for name, (kind, config) in configs.items():
        sae, x = kind(config), torch.randn(20, 6)
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.copy_(0.5 * torch.randn_like(parameter))
            if name == "jumprelu":
                sae.threshold.abs_()
            codes = sae.encode(x)
            save_file(
                {"x": x, "codes": codes, "x_hat": sae.decode(codes)}, _made(folder / name) / "expected.safetensors"
            )
        sae.save_model(folder / name)


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def dictionary_learning(kind):
    options = {"steps": 10_000, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 0, "lm_name": "none"}
    options |= {"lr": LR, "device": "cpu", "warmup_steps": 10}
    if kind == "topk":
        from dictionary_learning.trainers.top_k import TopKTrainer

        trainer = TopKTrainer(k=K, **options)
    else:
        from dictionary_learning.trainers.standard import StandardTrainer

        trainer = StandardTrainer(l1_penalty=L1, sparsity_warmup_steps=None, resample_steps=None, **options)
    return lambda x, n: trainer.update(n, x)


def main():
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        return save_as_sae_lens_does(Path(sys.argv[2]))
    peer = {"sae-lens": sae_lens, "dictionary-learning": dictionary_learning}[sys.argv[1]]
    result = {"version": importlib.metadata.version(sys.argv[1]), "torch": torch.__version__}
    for kind in ("topk", "relu"):
        torch.manual_seed(0)
        x, step, times = torch.randn(BATCH, D_IN), peer(kind), []
        for n in range(STEPS):
            start = time.process_time()
            step(x, n)
            times.append(1000 * (time.process_time() - start))
        result[kind] = sorted(times)[len(times) // 4]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
