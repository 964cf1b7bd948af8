"""Every task, with the course's tokenizer and with a byte-level BPE that knows only some of the words."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mechlib import tasks
from mechlib.recipes import corpus
from mechlib.tasks import Prompt, held_out
from mechlib.tasks import words as w
from mechlib.tasks.facts import RELATIONS
from mechlib.tasks.prompt import fill, n_tokens

PAIRS, WORDINGS, LONE = "held-out pairs", "held-out wordings", "held-out names"


@cache
def word_level():
    return corpus.tokenizer()


@cache
def byte_level(merges: int = 2500):
    """A GPT-2 style tokenizer, trained here on texts of the corpus with a few words left out."""
    import random

    rng = random.Random(0)
    texts = [corpus.text(rng) for _ in range(400)]
    words = {word for text in texts for word in corpus.split_words(text)} | {*w.NAMES, *w.COMMON}
    words |= {word for country in w.COUNTRIES for word in (country.capital, country.language, country.continent)}
    texts += [f" {word} {word}\n{word}" for word in sorted(words)] * 20
    # " 17" and "32" get to be tokens, but " 1732" does not.
    texts += [f" {century}" for century in w.CENTURIES] * 200 + list(w.YEARS) * 200
    texts = [text for text in texts if "wonderful" not in text and "Grace" not in text]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=merges, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    special = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special, eos_token=special, unk_token=special)


TASKS: dict[str, Callable[..., list[Prompt]]] = {
    "ioi": tasks.ioi,
    "ioi, three names": partial(tasks.ioi, third_name=True),
    **{
        f"ioi, {corruption}": partial(tasks.ioi, corruption=corruption)
        for corruption in ("random", "order", "names", "abc")
    },
    "greater_than": tasks.greater_than,
    "agreement": tasks.agreement,
    **{f"facts, {relation}": partial(tasks.facts, relation=relation) for relation in RELATIONS},
    "facts, lead": partial(tasks.facts, lead=True),
    "pronouns": tasks.pronouns,
    "sentiment": tasks.sentiment,
    "repeated_tokens": tasks.repeated_tokens,
}


def token_at(tokenizer, text: str, position: int) -> str:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokenizer.decode([ids[position - 1]]).strip()


@pytest.mark.parametrize("tokenizer", [word_level, byte_level])
@pytest.mark.parametrize("name", TASKS)
def test_twins_answers_and_positions(name, tokenizer):
    tokenizer = tokenizer()
    prompts = TASKS[name](tokenizer, n=25, seed=1)
    assert len({(prompt.text, prompt.answer) for prompt in prompts}) == 25
    assert prompts == TASKS[name](tokenizer, n=25, seed=1) != TASKS[name](tokenizer, n=25, seed=2)
    for prompt in prompts:
        assert n_tokens(tokenizer, prompt.text) == n_tokens(tokenizer, prompt.corrupted) == prompt.positions["end"]
        assert prompt.text != prompt.corrupted
        for answer in (prompt.answer, prompt.distractor, prompt.corrupted_answer, *prompt.answers):
            token = tasks.token_id(tokenizer, answer)
            assert tokenizer.decode([token]).strip() == answer.strip()
        assert prompt.answer == prompt.answers[0] and prompt.distractor == prompt.distractors[0]
        assert not set(prompt.answers) & set(prompt.distractors)
        assert all(1 <= at <= prompt.positions["end"] for at in prompt.positions.values())
        if name not in ("ioi, order", "ioi, random"):
            assert prompt.corrupted_answer != prompt.answer


def test_same_prompts_in_every_process():
    """Nothing depends on the hash seed of a process."""
    code = "from mechlib.recipes import corpus; from mechlib import tasks; print(tasks.ioi(corpus.tokenizer(), 3))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(tasks.ioi(word_level(), 3))


def test_ioi_roles_and_corruptions():
    tokenizer = word_level()
    for order in ("ABBA", "BABA"):
        for corruption in ("s2", "random", "order", "names", "abc"):
            for p in tasks.ioi(tokenizer, 20, order=order, corruption=corruption):
                roles = {role: token_at(tokenizer, p.text, p.positions[role]) for role in ("io", "s1", "s2")}
                twin = {role: token_at(tokenizer, p.corrupted, p.positions[role]) for role in roles}
                io, s = p.answer.strip(), p.distractor.strip()
                assert roles == {"io": io, "s1": s, "s2": s}
                assert (p.positions["io"] < p.positions["s1"]) == (order == "ABBA") == (p.labels["order"] == "ABBA")
                assert p.positions["s1+1"] == p.positions["s1"] + 1
                if corruption == "s2":
                    assert twin == {"io": io, "s1": s, "s2": io} and p.corrupted_answer == p.distractor
                elif corruption == "random":
                    assert (twin["io"], twin["s1"]) == (io, s) and twin["s2"] not in (io, s)
                elif corruption == "order":
                    assert twin == {"io": s, "s1": io, "s2": s} and p.corrupted_answer == p.answer
                elif corruption == "abc":
                    assert len({*twin.values(), io, s}) == 5 and p.corrupted_answer == f" {twin['s1']}"
                else:
                    assert twin["s1"] == twin["s2"] and not set(twin.values()) & {io, s}
                    assert p.corrupted_answer == f" {twin['io']}"
    texts = {tuple(p.text for p in tasks.ioi(tokenizer, 20, corruption=c)) for c in ("s2", "names", "abc")}
    assert len(texts) == 1
    with pytest.raises(ValueError, match="leave out `third_name`"):
        tasks.ioi(tokenizer, 5, third_name=True, corruption="abc")
    for p in tasks.ioi(tokenizer, 30, third_name=True):
        assert len(p.distractors) == 2 and p.distractors[1].strip() in p.text and p.labels["names"] == 3


def test_ioi_splits():
    for p in tasks.ioi(word_level(), 100, split=PAIRS):
        assert held_out.is_held_out_name_pair(p.answer.strip(), p.distractor.strip())
    for p in tasks.ioi(word_level(), 100, split=LONE):
        assert {p.answer.strip(), p.distractor.strip()} <= held_out.NAMES
    for split in ("train", WORDINGS):
        for p in tasks.ioi(word_level(), 100, split=split):
            pair = p.answer.strip(), p.distractor.strip()
            assert not held_out.is_held_out_name_pair(*pair) and not held_out.NAMES & set(pair)


def test_greater_than_answers_are_the_later_years():
    for p in tasks.greater_than(word_level(), 50):
        year = int(token_at(word_level(), p.text, p.positions["year"]))
        assert {int(x) for x in p.answers} == set(range(year + 1, 100))
        assert {int(x) for x in p.distractors} == set(range(year + 1))
        assert token_at(word_level(), p.corrupted, p.positions["year"]) == "01"
        assert token_at(word_level(), p.text, p.positions["century"]) == str(p.labels["century"])
        assert token_at(word_level(), p.text, p.positions["end"]) == str(p.labels["century"])


def test_agreement_attractors():
    for p in tasks.agreement(word_level(), 50):
        subject, attractor = (token_at(word_level(), p.text, p.positions[r]) for r in ("subject", "attractor"))
        plural = subject in w.PLURAL
        assert p.answer == (" are" if plural else " is") and (attractor in w.PLURAL) != plural
        assert token_at(word_level(), p.corrupted, p.positions["subject"]) != subject
    same = tasks.agreement(word_level(), 20, attractor="same number")
    assert not any(p.labels["attractor"] for p in same)


def test_landmarks_depend_on_the_order_of_their_words():
    rows = RELATIONS["landmark_city"].answers
    invented = [landmark for landmark in w.LANDMARKS if landmark.invented]
    assert len(invented) == 40 and len({landmark.name for landmark in invented}) == 40
    kinds = RELATIONS["landmark_kind"].answers
    for landmark in invented:
        turned = " ".join(reversed(landmark.name.split()))
        assert rows[turned] != landmark.city and kinds[turned] != landmark.kind
    for p in tasks.facts(word_level(), 50, relation="landmark_city"):
        if p.labels["invented"]:
            subject = p.labels["subject"]
            assert " ".join(reversed(subject.split())) in p.corrupted
            assert p.positions["subject"] == p.positions["subject first"] + 1
    real = tasks.facts(word_level(), 20, relation="landmark_kind", invented=False)
    assert not any(p.labels["invented"] for p in real)


def test_sentiment_turns_around_with_not():
    for p in tasks.sentiment(word_level(), 60):
        adjective = token_at(word_level(), p.text, p.positions["adjective"])
        assert (p.answer == " happy") == ((adjective in w.GOOD) != p.labels["negated"])
        assert p.labels["negated"] == (token_at(word_level(), p.text, p.positions["was"]) == "not")


def test_repeated_tokens_roles():
    for p in tasks.repeated_tokens(word_level(), 20, length=8, start=5):
        words = p.text.split()
        assert words[p.positions["source"] - 1] == words[-1] and f" {words[p.positions['copied'] - 1]}" == p.answer
        assert p.positions["first"] == 6 and p.positions["repeat"] == 14
        shown = len(words) - 13
        assert words[13:] == words[5 : 5 + shown] and 2 <= shown == p.labels["shown"] < 8
        assert p.corrupted.split()[p.positions["copied"] - 1] == p.corrupted_answer.strip()


def test_words_that_are_not_one_token_are_left_out():
    tokenizer = byte_level()
    assert n_tokens(tokenizer, " Grace") > 1 and n_tokens(tokenizer, " wonderful") > 1
    used = "".join(p.text for p in tasks.ioi(tokenizer, 200) + tasks.sentiment(tokenizer, 200))
    assert "Grace" not in used and "wonderful" not in used


def test_too_few_words_is_a_sentence():
    poor = byte_level(300)  # little more than letters
    with pytest.raises(ValueError, match=r"ioi: only \d+ of 84 names are single tokens for this tokenizer"):
        tasks.ioi(poor)
    for task in (tasks.agreement, tasks.sentiment, tasks.pronouns, tasks.repeated_tokens, tasks.facts):
        with pytest.raises(ValueError, match="are single tokens for this tokenizer"):
            task(poor)
    with pytest.raises(ValueError, match="only .* different prompts"):
        tasks.facts(word_level(), 10_000)
    with pytest.raises(ValueError, match="no split 'held-out names'"):
        tasks.agreement(word_level(), split=LONE)
    with pytest.raises(ValueError, match="no split 'test'; there are 'train'"):
        tasks.agreement(word_level(), split="test")
    with pytest.raises(ValueError, match="no relation"):
        tasks.facts(word_level(), relation="anthem")


def test_tokens_of_prompts():
    prompts = tasks.ioi(word_level(), 10)
    tokens = tasks.to_tokens(word_level(), [p.text for p in prompts])
    assert (tokens[:, 0] == word_level().bos_token_id).all()
    names = tokens[range(10), tasks.positions(prompts, "io")]
    assert (names == tasks.answer_tokens(word_level(), prompts)[:, 0]).all()
    assert tasks.positions(prompts).tolist() == [p.positions["end"] for p in prompts]
    with pytest.raises(ValueError, match="2 tokens"):
        tasks.token_id(word_level(), " Big Ben")


def test_fill():
    assert fill("The {a} of {b}.", {"a": "end", "b": "it"}) == ("The end of it.", {"a": (4, 7), "b": (11, 13)})
