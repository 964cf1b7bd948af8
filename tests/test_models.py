"""Loading: folders, the models that come with the course, the hub (a local one), and every sentence when it fails."""

import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch

from mechlib import cli, models
from mechlib.handmade import word_tokenizer
from mechlib.models import BLOCK_HOOKS, HOOKS, SWITCHED_HOOKS, ModelError, load, random_twin

WORDS = ["<bos>", "<unk>", *(f"w{i}" for i in range(38))]
# What a BPE tokenizer can learn from.
TEXT = ["When Mary and John went to the store, John gave a drink to Mary. " * 3, "The Eiffel Tower is in Paris. " * 3]


def gpt2(vocabulary: int, **changes):
    """A GPT-2 with random weights and biases, all of them large enough to matter."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32} | changes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, **shape))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or ".ln_" in name:
                    parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder as `mechlib train` leaves it: a small GPT-2, a word-level tokenizer."""
    folder = tmp_path_factory.mktemp("made") / "small"
    gpt2(len(WORDS)).save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "small"))


@pytest.fixture
def shipped(made, tmp_path, monkeypatch) -> Path:
    """A course that comes with one model, `pocket`."""
    home = tmp_path / "models"
    pocket = Path(shutil.copytree(made, home / "pocket"))
    card = {
        "name": "pocket",
        "architecture": {"parameters": 12345},
        "sha256": models._checksum(pocket / "model.safetensors"),
        "skills": {"ioi": {"value": 0.9876, "n": 300}, "loss of a repetition": {"value": 0.1, "n": 300}},
    }
    (pocket / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(models, "SHIPPED", home)
    return pocket


def some_tokens(model, batch: int = 3) -> torch.Tensor:
    return torch.randint(model.cfg.d_vocab, (batch, 11), generator=torch.Generator().manual_seed(1))


def the_sentence(*arguments, **keywords) -> str:
    """What `load` says when it cannot."""
    with pytest.raises(ModelError) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


# ---- what comes back


@pytest.mark.parametrize("path", [str, Path])
def test_a_folder_gives_transformers_own_logits(made, path):
    from transformers import AutoModelForCausalLM

    model = load(path(made), device="cpu")
    tokens = some_tokens(model)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(made)(tokens).logits
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("processed", [False, True])
def test_ready_to_be_read(made, processed):
    model = load(made, device="cpu", processed=processed)
    assert type(model).__name__ == "TransformerBridge"
    assert not model.training and not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.to_tokens("w0 w1 nonsense").tolist() == [[0, 2, 3, 1]]
    assert model.to_str_tokens("w0 w1") == ["<bos>", "w0", "w1"]


def test_bos_comes_first_once_for_a_tokenizer_that_does_not_put_it_there(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.init_kwargs.pop("add_bos_token", None)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("add_bos_token", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load(folder, device="cpu").to_tokens("w0 w1").tolist() == [[0, 2, 3]]
    assert load(folder, device="cpu").to_tokens("w0 w1", prepend_bos=False).tolist() == [[2, 3]]


def test_processed_changes_no_probability(made):
    raw, processed = load(made, device="cpu"), load(made, device="cpu", processed=True)
    tokens = some_tokens(raw)
    torch.testing.assert_close(processed(tokens).log_softmax(-1), raw(tokens).log_softmax(-1), atol=1e-5, rtol=0)
    assert processed.b_U.abs().max() > 1e-3 and not raw.b_U.any()
    assert processed.W_out.mean(dim=-1).abs().max() < 1e-6


def test_half_precision_weights_are_loaded_as_float32(folder):
    gpt2(len(WORDS)).half().save_pretrained(folder)
    model = load(folder, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(some_tokens(model)).dtype == torch.float32


# What an MLP whose weights are zero reads and does: the hooks are there, and editing them changes nothing.
# hook_resid_mid is one of them: the bridge's hook sits on the MLP's branch alone, not on the stream that goes past it.
OF_AN_MLP = (
    "hook_resid_mid",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_in",
    "hook_mlp_out",
    "ln2.hook_scale",
    "ln2.hook_normalized",
)


def works(model, name: str) -> None:
    """The hook can be read, edited with an effect on the logits, and differentiated through."""
    tokens = some_tokens(model)
    plain, activations = model.run_with_cache(tokens)
    assert activations[name].isfinite().any(), name
    if model.cfg.d_mlp == 1 and name.endswith(OF_AN_MLP):
        return
    leaves = []

    def edit(value, hook):
        factor = 0.5 + torch.rand(value.shape, generator=torch.Generator().manual_seed(2))
        leaves.append((value * factor).detach().requires_grad_(True))
        return leaves[0].view_as(value)

    logits = model.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
    assert (logits - plain).abs().max() > 1e-5, name
    logits.log_softmax(dim=-1)[..., 0].sum().backward()
    assert leaves[0].grad.abs().max() > 0, name


def every_hook_works(model) -> None:
    for hook in HOOKS:
        works(model, hook)
    for layer in range(model.cfg.n_layers):
        for hook in BLOCK_HOOKS:
            works(model, f"blocks.{layer}.{hook}")
        for hook, switch in SWITCHED_HOOKS.items():
            getattr(model, switch)(True)
            works(model, f"blocks.{layer}.{hook}")
            getattr(model, switch)(False)


@pytest.mark.filterwarnings("ignore:A forward hook edited")
@pytest.mark.parametrize("n_inner", [None, 1], ids=["mlp", "attention only"])
@pytest.mark.parametrize("processed", [False, True], ids=["raw", "processed"])
def test_every_hook_of_the_chapters(folder, processed, n_inner):
    gpt2(len(WORDS), n_inner=n_inner, initializer_range=0.3).save_pretrained(folder)
    every_hook_works(load(folder, device="cpu", processed=processed))


def test_the_hooks_have_transformer_lens_shapes(made):
    model = load(made, device="cpu")
    for switch in SWITCHED_HOOKS.values():
        getattr(model, switch)(True)
    _, activations = model.run_with_cache(some_tokens(model))
    expected = {
        "hook_embed": (3, 11, 32),
        "blocks.1.hook_resid_mid": (3, 11, 32),
        "blocks.1.attn.hook_k": (3, 11, 4, 8),
        "blocks.1.attn.hook_z": (3, 11, 4, 8),
        "blocks.1.attn.hook_result": (3, 11, 4, 32),
        "blocks.1.hook_q_input": (3, 11, 4, 32),
        "blocks.1.attn.hook_pattern": (3, 4, 11, 11),
        "blocks.1.attn.hook_attn_scores": (3, 4, 11, 11),
        "blocks.1.mlp.hook_post": (3, 11, 128),
        "ln_final.hook_scale": (3, 11, 1),
    }
    assert {name: tuple(activations[name].shape) for name in expected} == expected
    result, out = activations["blocks.1.attn.hook_result"], activations["blocks.1.hook_attn_out"]
    torch.testing.assert_close(result.sum(dim=2) + model.b_O[1], out)


@pytest.mark.parametrize("hook", ["attn.hook_result", "hook_q_input"])
def test_a_hook_that_is_switched_off_says_so(made, hook):
    model = load(made, device="cpu")
    with pytest.raises(ValueError, match=SWITCHED_HOOKS[hook]):
        model.run_with_hooks(some_tokens(model), fwd_hooks=[(f"blocks.0.{hook}", lambda value, hook: value)])


def test_loading_says_nothing_and_draws_nothing(made, capfd):
    state = torch.random.get_rng_state()
    load(made, device="cpu", processed=True)
    random_twin(made, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_loading_is_quick(tmp_path):
    words = [*WORDS, *(f"v{i}" for i in range(760))]
    gpt2(len(words), n_embd=128, n_layer=4, n_positions=64).save_pretrained(tmp_path)
    word_tokenizer(words).save_pretrained(tmp_path)
    import transformer_lens.model_bridge  # noqa: F401

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        load(tmp_path, device="cpu")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2


def test_importing_and_listing_needs_no_torch():
    program = (
        "import sys; from mechlib import cli; cli.main(['models']); "
        "print([name for name in ('torch', 'transformers', 'transformer_lens') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


# ---- the device


def test_the_device(made, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.pick_device().type == "cpu"
    assert "no CUDA device" in the_sentence(made, device="cuda")
    assert "not a device" in the_sentence(made, device="gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.pick_device().type == "cuda"
    assert models.pick_device("cpu").type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("processed", [False, True])
def test_on_a_gpu(made, processed):
    model, reference = load(made, processed=processed), load(made, device="cpu", processed=processed)
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert model.to_tokens("w0").device.type == "cuda"
    tokens = some_tokens(reference)
    torch.testing.assert_close(model(tokens.cuda()).cpu(), reference(tokens), atol=1e-3, rtol=0)
    assert {parameter.device.type for parameter in random_twin(made).parameters()} == {"cuda"}


# ---- twins


def test_a_random_twin(made):
    model, twin, again = load(made, device="cpu"), random_twin(made, device="cpu"), random_twin(made, device="cpu")
    other = random_twin(made, seed=1, device="cpu")
    shape = ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx", "act_fn", "eps")
    assert all(getattr(model.cfg, key) == getattr(twin.cfg, key) for key in shape)
    tokens = some_tokens(model)
    assert torch.equal(twin(tokens), again(tokens))
    assert (twin(tokens) - model(tokens)).abs().max() > 0.01
    assert (twin(tokens) - other(tokens)).abs().max() > 0.01
    assert torch.equal(twin.to_tokens("w0 w5"), model.to_tokens("w0 w5"))
    assert not twin.training and not any(parameter.requires_grad for parameter in twin.parameters())


def test_the_twin_of_an_attention_only_model_is_one(folder):
    gpt2(len(WORDS), n_inner=1).save_pretrained(folder)
    twin = random_twin(folder, device="cpu")
    _, activations = twin.run_with_cache(some_tokens(twin))
    assert not activations["blocks.0.hook_mlp_out"].any() and not activations["blocks.1.hook_mlp_out"].any()
    assert activations["blocks.0.hook_attn_out"].any()


def test_a_twin_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert random_twin(folder, device="cpu").cfg.n_layers == 2


# ---- the models that come with the course


def test_a_folder_with_a_card_comes_with_the_course(shipped):
    assert models.names() == ["pocket"]
    assert load("pocket", device="cpu").cfg.n_layers == 2
    assert random_twin("pocket", device="cpu").cfg.n_layers == 2
    assert models.card("pocket")["skills"]["ioi"]["value"] == 0.9876
    assert models.card(shipped) == models.card("pocket")


def test_a_folder_of_the_same_name_does_not_hide_it(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pocket").mkdir()
    assert load("pocket", device="cpu").cfg.n_layers == 2


@pytest.mark.parametrize("damage", [lambda weights: b"\0" + weights[1:], lambda weights: weights[:-1]])
def test_a_checksum_that_does_not_match(shipped, damage):
    weights = shipped / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    message = the_sentence("pocket")
    assert "model.safetensors is not the file that its card describes" in message
    assert "the checksum differs" in the_sentence(shipped)


def test_a_damaged_card(shipped):
    (shipped / "card.json").write_text("{")
    assert "card.json is damaged" in the_sentence("pocket")


def test_no_card(made):
    with pytest.raises(ModelError, match="There is no card for 'pockt'"):
        models.card("pockt")
    with pytest.raises(ModelError, match="There is no card"):
        models.card(made)


def test_mechlib_models(shipped, capsys):
    assert cli.main(["models"]) == 0
    size = (shipped / "model.safetensors").stat().st_size / 1e6
    assert capsys.readouterr().out.splitlines() == [
        f"pocket: 12,345 parameters, {size:.2f} MB",
        "    ioi                   0.988",
        "    loss of a repetition  0.1",
    ]
    assert cli.main(["models", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["parameters"], row["skills"]["ioi"]["n"]) == ("pocket", 12345, 300)


def test_mechlib_models_evaluate(shipped, capsys, monkeypatch):
    def evaluate(model, tokenizer):
        return {"layers": {"value": model.cfg.n_layers, "n": len(tokenizer)}}

    module = types.ModuleType("mechlib.models.evaluate")
    targets = {"pocket": {"layers": 2}}.get
    vars(module).update(evaluate=evaluate, targets=targets, table=lambda *parts: f"table {parts}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert cli.main(["models", "--evaluate", "pocket"]) == 0
    assert capsys.readouterr().out == "table ({'layers': {'value': 2, 'n': 40}}, {'layers': 2})\n"
    assert cli.main(["models", "--evaluate", "pocket", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"layers": {"value": 2, "n": 40}}
    assert cli.main(["models", "--evaluate", "pockt"]) == 1
    assert capsys.readouterr().err.startswith("mechlib: There is no model 'pockt' (did you mean pocket?)")


def test_a_checkpoint_of_the_training(shipped):
    from transformers import GPT2LMHeadModel

    step = shipped / "checkpoints" / "step-00030"
    early = gpt2(len(WORDS), initializer_range=0.1)
    early.save_pretrained(step)
    (step / "config.json").unlink()
    tokens = torch.tensor([[0, 5, 9]])
    assert models.checkpoints("pocket") == models.checkpoints(shipped) == [30]
    model = load("pocket", device="cpu", checkpoint=30)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), early(tokens).logits, atol=1e-5, rtol=0)
        final = GPT2LMHeadModel.from_pretrained(shipped)(tokens).logits
    assert (model(tokens) - final).abs().max() > 0.1
    card = models.card("pocket") | {"checkpoints": {"checkpoints/step-00030/model.safetensors": "0" * 64}}
    (shipped / "card.json").write_text(json.dumps(card))
    assert "the checksum differs" in the_sentence("pocket", checkpoint=30)


def test_a_checkpoint_that_is_not_there(shipped, made):
    assert the_sentence("pocket", checkpoint=7) == "'pocket' has no checkpoint 7: there are none."
    for step in (100, 20):
        shutil.copytree(made, shipped / "checkpoints" / f"step-{step:05}")
    assert the_sentence("pocket", checkpoint=7) == "'pocket' has no checkpoint 7: there are 20, 100."


@pytest.mark.filterwarnings("ignore:A forward hook edited")
@pytest.mark.parametrize("name", models.names())
def test_the_real_ones(name):
    """Whatever comes with the course loads in under two seconds, is transformers' model, and has every hook."""
    from transformers import AutoModelForCausalLM

    load(name, device="cpu")
    start = time.perf_counter()
    model = load(name, device="cpu")
    assert time.perf_counter() - start < 2
    tokens = some_tokens(model)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(models.SHIPPED / name, dtype=torch.float32)(tokens).logits
    # Logits of a trained model are in the tens: 1e-5 of that is a few of float32's last digits.
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-5)
    every_hook_works(model)
    assert {"sha256", "architecture", "skills"} <= set(models.card(name))


def test_all_of_them_are_small():
    assert sum(path.stat().st_size for path in models.SHIPPED.rglob("*") if path.is_file()) < 10e6


# ---- one sentence for what can go wrong


def test_an_unknown_name(shipped):
    message = the_sentence("pockt")
    assert message.startswith("There is no model 'pockt' (did you mean pocket?): write one of pocket, gpt2,")
    assert "(did you mean gpt2 or " in the_sentence("gtp2")
    assert "did you mean" not in the_sentence("xyzzy")


@pytest.mark.parametrize("name", ["./nowhere", "../nowhere", "/nowhere/at/all", "~/nowhere/at/all", Path("nowhere")])
def test_a_folder_that_is_not_there(name):
    assert the_sentence(name) == f"There is no folder {name}."


def test_a_folder_without_a_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert the_sentence(folder).startswith(f"{folder} has no tokenizer (tokenizer.json): save it with ")


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert the_sentence(folder).startswith(f"{folder} has no weights (model.safetensors): save them with ")


def test_a_folder_that_holds_no_model(tmp_path):
    assert the_sentence(tmp_path) == f"{tmp_path} has no config.json."


@pytest.mark.parametrize("config", ["", "{", '{"n_layer": 2,', "[]", "\ufeff", "{}"])
def test_a_damaged_config(folder, config):
    (folder / "config.json").write_text(config)
    assert "config.json is damaged: " in the_sentence(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_layer": 3}, "lacks weights that its config asks for: transformer.h.2."),
        ({"n_embd": 64}, "cannot be loaded: "),
        ({"n_head": 5}, "cannot be loaded: "),
        ({"model_type": "gpt3"}, "cannot be loaded: "),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "cannot be loaded: "),
    ],
)
def test_a_config_that_does_not_fit_the_weights(folder, change, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert said in the_sentence(folder)


def test_damaged_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    assert "cannot be loaded: " in the_sentence(folder)


# ---- the hub


@pytest.fixture(scope="module")
def gpt2_shaped(tmp_path_factory) -> Path:
    """A folder like the hub's `gpt2`: GPT-2's width and heads, a byte-level BPE tokenizer trained here."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2TokenizerFast

    folder = tmp_path_factory.mktemp("hub") / "gpt2"
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXT, vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False)
    folder.mkdir()
    bpe.save(str(folder / "tokenizer.json"))
    tokenizer = GPT2TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.save_pretrained(folder)
    gpt2(len(tokenizer), n_embd=768, n_head=12, n_positions=64).save_pretrained(folder)
    return folder


class Hub:
    """A hub of our own: one repository, `gpt2`, made of a folder's files."""

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, []
        hub, commit = self, "0" * 40

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.asked.append((self.command, self.path))
                path = self.path.split("?")[0]
                if path == "/api/models/gpt2":
                    return self.answer(200, json.dumps({"id": "gpt2", "sha": commit, "siblings": []}).encode())
                if path == "/api/models/owner/closed":
                    return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
                start, _, file = path.partition("/resolve/")
                file = hub.folder / file.partition("/")[2]
                if start == "/gpt2" and file.is_file():
                    content = file.read_bytes()
                    tag = f'"{models._checksum(file)[:40]}"'
                    return self.answer(200, content, {"ETag": tag, "X-Repo-Commit": commit})
                code = "EntryNotFound" if start == "/gpt2" or path.startswith("/api/models/gpt2/") else "RepoNotFound"
                self.answer(404, b"{}", {"X-Error-Code": code, "X-Repo-Commit": commit})

            do_HEAD = do_GET

            def answer(self, status: int, content: bytes, headers=None):
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty folder for downloads."""
    from huggingface_hub import constants

    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(folder), raising=False)
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(folder), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    return folder


@pytest.fixture(scope="module")
def server(gpt2_shaped):
    """One for all tests: the libraries remember its address."""
    hub = Hub(gpt2_shaped)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def hub(server, cache, monkeypatch) -> Hub:
    from huggingface_hub import constants

    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    server.asked.clear()
    return server


def block(monkeypatch) -> None:
    """No network: every connection fails at once."""

    def refuse(*arguments, **keywords):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_gpt2_from_a_folder(gpt2_shaped):
    from transformers import GPT2LMHeadModel

    model = load(gpt2_shaped, device="cpu")
    text = "When Mary and John went to the store, John gave a drink to"
    tokens = model.to_tokens(text)
    assert tokens[0, 0] == model.tokenizer.bos_token_id == 0
    assert model.to_string(tokens[0, 1:]) == text
    assert model.to_str_tokens(text)[:3] == ["<|endoftext|>", "When", " Mary"]
    assert model.to_single_token(" Mary") == tokens[0, 2]
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(gpt2_shaped)(tokens).logits
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=0)
    folded = load(gpt2_shaped, device="cpu", processed=True)
    torch.testing.assert_close(folded(tokens).log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)


def test_gpt2_from_the_hub_then_without_a_network(gpt2_shaped, hub, cache, monkeypatch):
    tokens = torch.tensor([[0, 5, 9, 2]])
    expected = load(gpt2_shaped, device="cpu")(tokens)
    torch.testing.assert_close(load("gpt2", device="cpu")(tokens), expected)
    assert any(verb == "GET" and path.endswith("/model.safetensors") for verb, path in hub.asked)
    block(monkeypatch)
    torch.testing.assert_close(load("gpt2", device="cpu")(tokens), expected)


def test_names_that_the_hub_does_not_give(hub):
    assert the_sentence("owner/nothing").startswith("There is no model 'owner/nothing'")
    assert "accepted its terms" in the_sentence("owner/closed")
    assert the_sentence("an owner/with spaces").startswith("There is no model")


def test_no_network(cache, monkeypatch, shipped):
    block(monkeypatch)
    start = time.perf_counter()
    message = the_sentence("gpt2")
    assert message.startswith("'gpt2' is not on this machine and the hub cannot be reached (")
    assert message.endswith("or take a model that needs no network (pocket).")
    assert "'owner/name' is not on this machine" in the_sentence("owner/name")
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        random_twin("gpt2")
    assert time.perf_counter() - start < 5


def test_a_name_server_that_never_answers(cache, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **keywords: time.sleep(20))
    monkeypatch.setattr(models, "PATIENCE", 0.2)
    start = time.perf_counter()
    assert "the hub cannot be reached (" in the_sentence("gpt2")
    assert time.perf_counter() - start < 5


def test_a_twin_needs_no_downloaded_weights(hub, cache, monkeypatch):
    twin = random_twin("gpt2", device="cpu")
    assert not any(path.endswith("safetensors") for verb, path in hub.asked if verb == "GET")
    block(monkeypatch)
    tokens = torch.tensor([[0, 5, 9, 2]])
    assert torch.equal(random_twin("gpt2", device="cpu")(tokens), twin(tokens))


def test_offline_mode(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    assert "the hub cannot be reached (OfflineModeIsEnabled)" in the_sentence("gpt2")
    assert time.perf_counter() - start < 5


def test_a_hub_that_never_answers(cache, monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(models, "PATIENCE", 0.5)
        start = time.perf_counter()
        assert "the hub cannot be reached (ReadTimeout)" in the_sentence("gpt2")
        assert time.perf_counter() - start < 5
