"""The corpus: what is held out is held out of every kind of text, and the detector that says so can see."""

import random
from collections import Counter

import pytest

from mechlib import tasks
from mechlib.recipes import corpus
from mechlib.tasks import held_out
from mechlib.tasks.facts import RELATIONS
from mechlib.tasks.facts import draft as fact
from mechlib.tasks.ioi import draft as ioi


@pytest.mark.parametrize("kind", corpus.MIX)
def test_no_kind_of_text_shows_what_is_held_out(kind):
    rng = random.Random(f"leaks/{kind}")
    people = sorted(held_out.NAMES)
    for i in range(1200):
        alone = people[i % len(people)] if kind != "ioi" and i % 3 == 0 else ""
        text = corpus.text(rng, kind, alone)
        assert corpus.leaks(text) == [], text


def test_no_page_shows_held_out_names_or_pairs():
    """Across the texts of a page too: there names of different texts could meet."""
    seen: Counter[str] = Counter()
    for step in range(40):
        for row in corpus.rows(5, step, 32):
            names = corpus.NAME_SET & {corpus.vocabulary()[i] for i in row}
            assert corpus.name_leaks(names) == []
            seen.update(names)
    assert set(seen) == corpus.NAME_SET  # held-out names are words that the model knows


@pytest.mark.parametrize("split", tasks.SPLITS[1:])
@pytest.mark.parametrize(
    "task", [tasks.ioi, tasks.greater_than, tasks.agreement, tasks.facts, tasks.pronouns, tasks.sentiment]
)
def test_the_detector_sees_every_held_out_prompt(task, split):
    """A prompt of a held-out split, planted among innocent texts, is found; one of the train split is not."""
    tokenizer = corpus.tokenizer()
    around = "Have you seen the map? {} So they went home."

    def completed(prompt: tasks.Prompt) -> str:
        return around.format(f"{prompt.text}{prompt.answer}.")

    options = [{"relation": relation} for relation in RELATIONS] if task is tasks.facts else [{}]
    for option in options:
        try:
            prompts = task(tokenizer, 20, split=split, **option)
        except ValueError as error:
            assert "no split" in str(error)
            continue
        assert all(corpus.leaks(completed(prompt)) for prompt in prompts)
        innocent = task(tokenizer, 20, split="train", **option)
        assert [corpus.leaks(completed(prompt)) for prompt in innocent] == [[]] * 20


def test_a_leaky_story_is_found():
    assert corpus.leaks("Alice went home. Then Mary was happy.")
    assert corpus.leaks("Once Mary and John got back to the park, they slept.")
    assert not corpus.leaks("Alice went home. Then Alice was happy.")
    rng = random.Random(0)
    pair = ioi(rng, corpus.TRAIN_NAMES, split="held-out pairs").slots
    assert corpus.leaks(f"{pair['a']} was here. In the end {pair['b']} left.")
    paraphrase = fact(rng, "capital", split="held-out wordings")
    assert corpus.leaks(f"So they went home. {paraphrase.text}{paraphrase.answers[0]}.")


def test_every_word_is_shown():
    """Held-out prompts are made of words that the model has read often."""
    seen: Counter[int] = Counter()
    for step in range(60):
        for row in corpus.rows(3, step, 32):
            seen.update(row)
    rare = {word: seen[i] for i, word in enumerate(corpus.vocabulary()) if seen[i] < 5 and word != corpus.UNK}
    assert rare == {}
    assert seen[corpus.word_ids()[corpus.UNK]] == 0


def test_rows():
    rows = corpus.rows(0, 7, 4)
    assert rows == corpus.rows(0, 7, 4) != corpus.rows(0, 8, 4) != corpus.rows(1, 8, 4)
    assert [len(row) for row in rows] == [64] * 4
    bos = corpus.word_ids()[corpus.BOS]
    assert all(row[0] == bos and row.count(bos) >= 1 for row in rows)


def test_the_tokenizer_reads_what_the_corpus_wrote(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = corpus.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    rng, ids = random.Random(1), corpus.word_ids()
    for kind in corpus.MIX:
        text = corpus.text(rng, kind)
        expected = [ids[word] for word in corpus.split_words(text)]
        assert tokenizer(text)["input_ids"] == loaded(text)["input_ids"] == expected
    assert tokenizer.convert_ids_to_tokens(tokenizer("In 1732, Xyzzy.")["input_ids"]) == [
        "In",
        "17",
        "32",
        ",",
        "<unk>",
        ".",
    ]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert 600 < len(tokenizer) < 1000


def test_pronouns_have_their_bias():
    rng = random.Random(0)
    share: Counter[str] = Counter()
    for _ in range(4000):
        text = corpus.text(rng, "pronouns")
        words = corpus.split_words(text)
        if "nurse" in words:
            share["she" if "she" in words else "he"] += 1
    assert 0.85 < share["she"] / sum(share.values()) < 1
