"""The embedded corpus: reproducible, long enough, and really holding what it says is planted."""

import collections
import hashlib
import itertools

import numpy as np
import pytest

from assocjax.corpora import fables, words
from assocjax.errors import InputError, InputTypeError

PLANTED = fables.PLANTED


@pytest.fixture(scope="module")
def stories() -> list[list[str]]:
    return [words(story) for story in fables.generate(1500, seed=1)]


def sentences(story: list[str]) -> list[list[str]]:
    """A story's tokens, split after each full stop, question mark and exclamation mark."""
    groups = [[]]
    for token in story:
        groups[-1].append(token)
        if token in ".?!":
            groups.append([])
    return groups


def test_same_text_everywhere():
    # Pinned: results name the seed of a corpus and rely on it. A change of the grammar changes
    # this hash, and has to be made on purpose.
    text = "\n".join(fables.generate(200, seed=7))
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "e05de5e7bd851805388dd427b9bd2b727e1bc02acfeb6da8e5e191ff4ce9d745"
    )


def test_seed_and_prefix():
    assert fables.generate(20, seed=3) == fables.generate(20, seed=3)
    assert fables.generate(20, seed=3) != fables.generate(20, seed=4)
    assert fables.generate(30, seed=3)[:20] == fables.generate(20, seed=3)
    assert len(set(fables.generate(500))) == 500


@pytest.mark.parametrize("min_words", [1, 80, 201, 700])
def test_min_words(min_words):
    lengths = [len(words(story)) for story in fables.generate(50, min_words=min_words)]
    assert min(lengths) >= min_words
    # One episode takes it over the mark: not more than the longest episode beyond it.
    assert max(lengths) < max(min_words + 60, 160)


def test_lexicon_is_closed(stories):
    first = set().union(*stories[:750])
    assert 160 <= len(first) <= 220
    assert first == set().union(*stories)


def test_every_planted_word_occurs_and_has_one_role(stories):
    groups = [
        PLANTED.actions.keys(),
        PLANTED.actions.values(),
        set().union(*PLANTED.manners.values()),
        PLANTED.names,
        PLANTED.adjectives.keys(),
        *PLANTED.adjectives.values(),
        PLANTED.settings.keys(),
        *(scene - PLANTED.actions.keys() for scene in PLANTED.settings.values()),
    ]
    planted = list(itertools.chain(*groups))
    assert len(planted) == len(set(planted))
    assert set(planted) <= set().union(*stories)


def test_verb_follows_its_animal_at_a_distance(stories):
    animal_of = {verb: animal for animal, verb in PLANTED.actions.items()}
    seen = collections.Counter()
    for sentence in itertools.chain.from_iterable(map(sentences, stories)):
        for verb in animal_of.keys() & set(sentence):
            animals = [token for token in sentence if token in PLANTED.actions]
            assert animals == [animal_of[verb]]
            assert 5 <= sentence.index(verb) - sentence.index(animals[0]) <= 8
            assert sentence[sentence.index(verb) - 1] in PLANTED.manners[verb]
            seen[verb] += 1
    assert seen.keys() == animal_of.keys()
    assert min(seen.values()) > 100


def test_adjective_stands_before_its_noun(stories):
    noun_of = {a: noun for noun, adjectives in PLANTED.adjectives.items() for a in adjectives}
    followers = collections.defaultdict(set)
    for left, right in itertools.chain.from_iterable(map(itertools.pairwise, stories)):
        followers[left].add(right)
    for adjective, noun in noun_of.items():
        assert followers[adjective] == {noun}


def test_names_share_their_slots(stories):
    before = {name: collections.Counter() for name in PLANTED.names}
    for left, right in itertools.chain.from_iterable(map(itertools.pairwise, stories)):
        if right in before:
            before[right][left] += 1
    totals = np.array([sum(counts.values()) for counts in before.values()])
    # Names are drawn once a story, so counts spread like those of 3,000 draws among 8.
    assert np.ptp(totals) < 0.25 * totals.mean()
    common = [{left for left, n in counts.items() if n >= 20} for counts in before.values()]
    assert all(slots == common[0] for slots in common)


def test_scenes_do_not_mix(stories):
    scene_words = {
        setting: scene | {setting} | {PLANTED.actions[a] for a in scene & PLANTED.actions.keys()}
        for setting, scene in PLANTED.settings.items()
    }
    for story in stories:
        assert sum(not scene.isdisjoint(story) for scene in scene_words.values()) == 1


def test_ground_truth_agrees_with_what_is_planted():
    truth = fables.ground_truth()
    basis = {"bigram", "interchangeability", "context", "composed"}
    assert truth.keys() == basis | {"value", "query_key"}
    assert truth["bigram"]["red"] == {"apple"}
    assert truth["composed"]["bird"] == {"flew"}
    assert truth["value"]["bird"] == PLANTED.manners["flew"]
    # One manner word goes before two verbs, and each verb is of one animal.
    for manner, animals in truth["query_key"].items():
        assert len(animals) == 2
        assert {PLANTED.actions[animal] for animal in animals} == truth["bigram"][manner]
    assert truth["interchangeability"]["mia"] == set(PLANTED.names) - {"mia"}
    swam = {"fish", "pond", "reeds", "lilies", "pebbles", "willows"} | PLANTED.manners["swam"]
    assert truth["context"]["swam"] == swam
    for associates in truth.values():
        assert all(associates.values())
        assert all(query not in found for query, found in associates.items())
    for manner, verbs in truth["bigram"].items():
        if manner in set().union(*PLANTED.manners.values()):
            assert {verb for verb in verbs if manner in PLANTED.manners[verb]} == verbs
            assert len(verbs) == 2


def test_planted_is_read_only():
    with pytest.raises(AttributeError):
        PLANTED.names = ()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        PLANTED.actions["bird"] = "swam"  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"num_documents": 0}, InputError),
        ({"seed": -1}, InputError),
        ({"min_words": 0}, InputError),
        ({"num_documents": 2.5}, InputTypeError),
        ({"seed": True}, InputTypeError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        fables.generate(**arguments)
