"""The page about a feature: what is on it is true, it loads nothing, and the text says the same."""

import html
import re

import pytest
import torch

from mechlib import models
from mechlib.feature_page import as_html, feature_page
from mechlib.recipes import corpus
from mechlib.sae import SAE, read_site
from mechlib.tasks.concepts import CONCEPTS, concept_labels

SITE = "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def page():
    """Of a latent made by hand: it reads and writes the direction from other words to cities."""
    model = models.load("pocket", device="cpu")
    tokens = torch.tensor(corpus.rows(5, 0, 60))
    labels = concept_labels(model.tokenizer, tokens)
    x = read_site(model, SITE, tokens)
    city = labels[..., [concept.name for concept in CONCEPTS].index("city")]
    direction = torch.nn.functional.normalize(x[city].mean(dim=0) - x[~city].mean(dim=0), dim=0)
    sae = SAE(128, 3, "relu").requires_grad_(False)
    sae.W_dec[1], sae.W_enc[:, 1] = direction, direction
    sae.b_enc[1] = -(x[~city] @ direction).quantile(0.99)
    concepts = {concept.name: labels[..., i] for i, concept in enumerate(CONCEPTS)}
    made = feature_page(model, sae, SITE, tokens, 1, concepts, title="A <b>city</b> direction")
    return made, model, sae.encode(x)[..., 1], tokens


def test_the_page_says_what_the_codes_are(page):
    made, model, codes, tokens = page
    assert made.density == pytest.approx((codes > 0).float().mean().item()) and made.maximum == codes.max()
    assert sum(made.counts) == (codes > 0).sum()
    assert [e.activations[e.at] for e in made.top] == pytest.approx(codes.amax(dim=1).topk(8).values.tolist())
    assert made.fit.concept == "city" and made.fit.best[1] > 0.5
    assert made.fit.recall[0] >= made.fit.recall[-1]
    for i, examples in enumerate(made.lower):
        for e in examples:
            assert (3 - i) / 4 * made.maximum < e.activations[e.at] <= (4 - i) / 4 * made.maximum * 1.0001


def test_it_shows_the_tokens_that_the_direction_promotes(page):
    made, model, codes, tokens = page
    assert made.promoted[0][1] > 0 > made.suppressed[0][1]
    assert [v for _, v in made.promoted] == sorted((v for _, v in made.promoted), reverse=True)


def test_html_loads_nothing_and_escapes(page):
    shown = as_html(page[0])
    assert not re.search(r"https?:|src=|@import|url\(|<script|<link", shown)
    assert "<b>city</b>" not in shown and "A &lt;b&gt;city&lt;/b&gt; direction" in shown
    assert "prefers-color-scheme: dark" in shown and 'data-jp-theme-light="false"' in shown
    assert page[0]._repr_html_() == shown


def test_text_says_what_the_page_says(page):
    text = str(page[0])
    plain = html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", as_html(page[0])))
    for example in page[0].top:
        assert example.tokens[example.at].strip() in plain
        assert f">>{example.tokens[example.at].strip()}<< [{example.activations[example.at]:.2f}]" in text
    for token, value in (*page[0].promoted, *page[0].suppressed):
        assert token.strip() in plain and f"{value:+.2f}" in plain and f"{token.strip()} {value:+.2f}" in text
    assert "nearest concept: city (precision" in text and "nearest concept:  city (precision" in plain


def test_repr_is_one_short_line(page):
    assert re.fullmatch(
        r"FeaturePage\('A <b>city</b> direction', active on \S+% of tokens, nearest concept: city\)", repr(page[0])
    )


def test_saved_as_a_document(page, tmp_path):
    page[0].save(tmp_path / "page.html")
    saved = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert saved.startswith("<!doctype html>") and as_html(page[0]) in saved


def test_a_latent_that_never_fires_has_a_page():
    model = models.load("pocket", device="cpu")
    sae = SAE(128, 2, "relu").requires_grad_(False)
    sae.b_enc -= 1e6
    made = feature_page(model, sae, SITE, torch.tensor(corpus.rows(5, 0, 3)), 0, {"all": torch.ones(3, 64) > 0})
    assert made.top == () and made.fit is None and "(none)" in str(made) and "none" in as_html(made)
