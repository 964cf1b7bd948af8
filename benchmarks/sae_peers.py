"""One training step of a peer's SAE, in an environment of its own: `python sae_peers.py sae-lens|dictionary-learning`.

Prints a JSON object {case: milliseconds}. It imports the peer and torch alone, because neither peer installs beside
this course's TransformerLens. `benchmarks/sae.py` runs it and prints the ratios.
"""

import importlib.metadata
import json
import sys
import time

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
