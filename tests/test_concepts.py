"""The twenty concepts: where they hold in sentences that say so."""

import pytest
import torch

from mechlib.recipes import corpus
from mechlib.tasks.concepts import CONCEPTS, concept_labels

RULES = {concept.name: concept.rule for concept in CONCEPTS}


def test_twenty_and_more_than_half_are_not_in_the_word():
    assert len(RULES) == 20 and sum(not concept.current_word for concept in CONCEPTS) >= 10


# A concept, and a text in which the words where it holds stand between brackets.
EXAMPLES = [
    ("country", "People in [France] speak French ."),
    ("city", "The capital of France is [Paris] ."),
    ("woman's name", "[Mary] met John at the park ."),
    ("man's name", "Mary met [John] at the park ."),
    ("profession", "The [nurse] was late , so she went home ."),
    ("place", "Mary met John at the [park] ."),
    ("good adjective", "The movie was not [great] . The song was awful ."),
    ("event", "There was a [war] from 17 32 to 17 45 ."),
    ("repeated segment", "cat dog lamp king cat dog [lamp] [king] door dog lamp [king]"),
    ("repeated name", "Mary and John left , [John] gave a book to [Mary] ."),
    ("second person", "Mary and [John] left , John gave a book to [Tom] ."),
    ("giver known", "Mary and John left , [John] [gave] [a] [book] [to] Mary . They left ."),
    ("giver known", "Mary went home . Mary sang ."),
    ("negated", "The movie was not [great] [.] Tom was sad ."),
    ("good verdict", "The movie was [great] [.] [Tom] [was] happy . The song was awful . Tom was sad ."),
    ("good verdict", "The movie was not great . Tom was sad . It was not [awful] [,] [so] [Tom]"),
    ("plural subject", "The keys [near] [the] [cabinet] are old . The key near the cabinets is old ."),
    ("larger year next", "The war went on from 17 32 to [17] 45 . The siege started in 18 02 and"),
    ("first year late", "It went on from 17 32 to 17 45 . It went on from 17 84 [to] [the] [year] [17] 90 ."),
    ("European country", "In France [,] [people] [speak] [French] [.] In Japan , people"),
    ("landmark ends", "You can find the Eiffel [Tower] in Paris . Alder [Vale] is a gate . Vale"),
    ("city next", "The capital of France [is] Paris , the city [of] Paris ."),
]


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[f"{i} {name}" for i, (name, _) in enumerate(EXAMPLES)])
def test_where_it_holds(name, text):
    marked = text.split()
    expected = [word.startswith("[") for word in marked]
    words = [word.strip("[]") for word in marked]
    assert RULES[name](words) == expected


def test_labels_of_a_page_are_those_of_its_texts():
    tokenizer = corpus.tokenizer()
    page = "<bos> Mary met Tom . <bos> Mary met John . John <bos>"
    words = page.split()
    labels = concept_labels(tokenizer, torch.tensor([tokenizer.convert_tokens_to_ids(words)]))[0]
    assert not labels[[0, 5, 11]].any()
    assert labels[1:5].T.tolist() == [RULES[c.name](words[1:5]) for c in CONCEPTS]
    assert labels[6:11].T.tolist() == [RULES[c.name](words[6:11]) for c in CONCEPTS]
    assert not labels[6, [c.name for c in CONCEPTS].index("repeated name")]  # Mary is new in the second text


def test_every_concept_occurs_and_none_is_everywhere():
    tokenizer = corpus.tokenizer()
    share = concept_labels(tokenizer, torch.tensor(corpus.rows(3, 0, 200))).float().mean(dim=(0, 1))
    assert (share > 0.001).all() and (share < 0.15).all()
