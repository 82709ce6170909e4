"""Fables: short English stories from a small grammar, with associations planted on purpose.

The default corpus. It needs no download, is the same text on every machine and Python version, has
any number of documents, and, unlike natural text, its associations are known, so that the
associations found by a basis function can be scored (`ground_truth`).

A story is set in one place and stays there. A child, with a friend, meets the animals of the
place in one short episode after another, and a moral ends the story. Planted associations
(`PLANTED`):

* *Actions.* Each animal has one verb of motion: the bird *flew*, the fish *swam*, the frog
  *hopped*. The verb stands five to eight tokens after its animal, in the same sentence ("The bird
  beside the oaks slowly flew away."), so no bigram links the two.
* *Manners.* Each verb directly follows one of its two manner words ("slowly flew"); each manner
  word belongs to two verbs of different settings. So no two verbs follow the same set of tokens;
  otherwise interchangeability, and every matrix composed from it, could not tell them apart.
* *Names.* Eight names, drawn uniformly for the same slots, so that they are interchangeable.
* *Adjectives.* Each adjective belongs to one noun and always stands directly before it ("red
  apple"): a bigram. Nouns with adjectives occur in every setting.
* *Settings.* Each setting has a scene of its own: its noun, four things, two animals and their
  verbs, which occur in no other setting.

The associations are kept separate on purpose: no word of a scene, no adjective and no manner word
has another role, and there is no "he" or "she", which would associate some of the names and not
others. There are about 200 different tokens, so that the default vocabulary holds them all.
"""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from assocjax.arguments import check_integer
from assocjax.corpora.tokenizers import words
from assocjax.errors import InputError

NUM_DOCUMENTS = 2000
_MAX_WORDS = 10**9  # takes hours, and gigabytes of text


@dataclasses.dataclass(frozen=True)
class Planted:
    """The associations that the grammar plants; all words are lower-case tokens.

    Attributes:
        actions: animal -> its verb.
        manners: verb -> the two manner words that stand directly before it.
        names: the interchangeable names.
        adjectives: noun -> its adjectives.
        settings: setting noun -> the things and animals of its scene.
    """

    actions: Mapping[str, str]
    manners: Mapping[str, frozenset[str]]
    names: tuple[str, ...]
    adjectives: Mapping[str, frozenset[str]]
    settings: Mapping[str, frozenset[str]]


_NAMES = ("Mia", "Tom", "Nora", "Leo", "Anna", "Max", "Ella", "Sam")

# setting: (things, all of which one can stand beside), ((animal, verb), ...)
_SCENES: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]] = {
    "pond": (("reeds", "lilies", "pebbles", "willows"), (("frog", "hopped"), ("fish", "swam"))),
    "forest": (("oaks", "ferns", "acorns", "nests"), (("bird", "flew"), ("squirrel", "scampered"))),
    "meadow": (
        ("clover", "daisies", "poppies", "hedges"),
        (("horse", "galloped"), ("bee", "buzzed")),
    ),
    "farm": (("hay", "barns", "buckets", "gates"), (("pig", "trotted"), ("goose", "waddled"))),
    "beach": (("waves", "shells", "rocks", "boats"), (("crab", "scuttled"), ("turtle", "crawled"))),
}

_ADJECTIVES = {
    "apple": ("red", "juicy"),
    "kite": ("blue", "paper"),
    "blanket": ("warm", "woolly"),
    "lantern": ("bright", "brass"),
    "coin": ("golden", "round"),
    "drum": ("loud", "wooden"),
    "book": ("thick", "dusty"),
    "bell": ("silver", "tiny"),
}

# A ring: word i introduces verb i and verb i + 1. Verbs are ordered below so that neighbours on
# the ring belong to different settings.
_MANNERS = (
    "slowly", "quietly", "proudly", "gently", "happily",
    "calmly", "boldly", "softly", "merrily", "swiftly",
)  # fmt: skip

_OPENINGS = (
    "Once upon a time, a child named {name} lived near the {setting}.",
    "Long ago there was a child named {name} who lived by the {setting}.",
    "One morning {name} and {friend} went all the way to the {setting}.",
    "Every summer {name} and {friend} came back to the {setting}.",
    "There was a {setting} far away, and a child named {name} played there.",
)

_SCENERY = (
    "Then {name} and {friend} sat near the {thing} and looked at the {other}.",
    "Soon {name} and {friend} came to the {thing} beside the {other}.",
    "The wind sang to {name} over the {thing} and the {other}.",
    "So {name} went home past the {thing}, and {friend} by the {other}.",
    "They sat beside the {thing}, and {friend} looked at the {other} near them.",
)

# Each episode ends with its animal going away; see _DEPARTURES.
_EPISODES = (
    (
        'There {name} met a {animal}. "Have you seen my {adj} {noun}?" asked {name}. '
        '"No," said the {animal}, "but I will help you look."'
    ),
    (
        'A {animal} came near. "Why are you so sad?" it asked {name}. '
        '"I lost my {adj} {noun}," said {name}, and {friend} began to cry.'
    ),
    (
        '{name} found a {adj} {noun} by the {thing}. "It is mine," said the {animal}, '
        "so {name} gave it back."
    ),
    (
        '"Look!" cried {friend}. Beside the {thing} sat a {animal} with a {adj} {noun}. '
        '"Will you share it with {name}?" asked {friend}.'
    ),
    (
        "{name} wanted to trade a {adj} {noun} for a song. "
        '"I know a song about the {thing}," said the {animal}, and sang it to {friend}.'
    ),
    (
        "Then the rain came. A {animal} was cold and sad, so {name} gave it a {adj} {noun}. "
        '"You are kind," it said to {name}.'
    ),
    (
        '"Who has my {adj} {noun}?" asked the {animal}. "It is not here," said {friend}. '
        "But {name} had seen it near the {thing}."
    ),
    (
        "{name} and {friend} played with a {adj} {noun} until a {animal} came by. "
        '"Will you play with me too?" it asked {friend}.'
    ),
)

# The animal comes first, its verb five to eight tokens later, with no other animal between. The
# other words of these sentences are common elsewhere too, so that they do not become associates of
# every verb.
_DEPARTURES = (
    "The {animal} beside the {thing} {manner} {verb} away.",
    "Then the {animal} near the {thing} {manner} {verb} home.",
    "The {animal} looked at the {thing} and {manner} {verb} away.",
    "So the {animal} went past the {setting} and {manner} {verb} home.",
    "Soon the {animal} by the {thing} looked back and {manner} {verb} away.",
    "Then the {animal} went back to the {setting} and {manner} {verb} away.",
)

_MORALS = (
    "So {name} learned that a kind word is never lost.",
    "And {name} told {friend} that to share is to have more.",
    "That night {name} thanked {friend}, for a friend who will listen is worth more than gold.",
    "So remember, as {name} did, that those who help are never alone.",
    "And {friend} said to {name} that even the small can be brave.",
)

_NOUNS = tuple(_ADJECTIVES)
_SETTINGS = tuple(_SCENES)


def _plant() -> Planted:
    # First animals of all settings, then second ones: neighbours never share a setting.
    pairs = [scene[1][turn] for turn in (0, 1) for scene in _SCENES.values()]
    return Planted(
        actions=MappingProxyType(dict(pairs)),
        manners=MappingProxyType(
            {verb: frozenset((_MANNERS[i], _MANNERS[i - 1])) for i, (_, verb) in enumerate(pairs)}
        ),
        names=tuple(name.lower() for name in _NAMES),
        adjectives=MappingProxyType({n: frozenset(a) for n, a in _ADJECTIVES.items()}),
        settings=MappingProxyType(
            {
                setting: frozenset(things) | {animal for animal, _ in animals}
                for setting, (things, animals) in _SCENES.items()
            }
        ),
    )


PLANTED = _plant()
"""The associations in the stories of `generate`; the ground truth is derived from them."""

# In a fixed order, which a set does not have.
_MANNERS_OF = {verb: tuple(sorted(manners)) for verb, manners in PLANTED.manners.items()}


def generate(num_documents: int = NUM_DOCUMENTS, seed: int = 0, min_words: int = 80) -> list[str]:
    """Generates stories: the same ones for the same arguments, on every Python version.

    The first k of n stories are the k stories of `generate(k, ...)`.

    Args:
        num_documents: Number of stories, at least 1.
        seed: Seed of the stories, at least 0.
        min_words: A story gets further episodes until it has at least this many tokens of the
            word tokeniser (`assocjax.corpora.words`), including its moral; at least 1.

    Returns:
        `num_documents` stories, each of at least `min_words` tokens and a few sentences more.

    Raises:
        InputError: If a number is out of range, or the stories have more than 10^9 words.
        InputTypeError: If a number is not an integer.

    Cost: about 10 million words a minute on one core.
    """
    num_documents = check_integer("num_documents", num_documents, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    min_words = check_integer("min_words", min_words, minimum=1)
    if num_documents * min_words > _MAX_WORDS:
        raise InputError(
            f"fables: {num_documents} documents of {min_words} words are more than the "
            f"{_MAX_WORDS:,} words that can be generated; ask for fewer documents, or shorter "
            "sequences"
        )
    # Python promises that Random(seed).random() gives the same sequence in later versions, but not
    # that choice, shuffle and sample do.
    uniform = random.Random(seed).random
    return [_story(uniform, min_words) for _ in range(num_documents)]


def ground_truth() -> dict[str, dict[str, frozenset[str]]]:
    """The planted associations that each basis function should show.

    Returns:
        For each basis function a mapping from query token to the set of its correct associates
        (never the query itself):

        * `"bigram"`: adjective -> {its noun}, and manner word -> its two verbs (row of B).
        * `"interchangeability"`: name -> the other names (row of Sigma).
        * `"context"`: verb -> the words planted before it: its animal, its two manner words, its
          setting and the things there (row of Phi).
        * `"composed"`: animal -> {its verb} (row of G).
        * `"value"`: animal -> the manner words that its verb follows (row of Phi^T B^T).
        * `"query_key"`: manner word -> the animals that determine which of its two verbs comes
          next (row of Q).

        Frequent words (the, and, full stop) follow and precede everything, so scores should be
        corrected for frequency before their top k are compared with these sets.

    Examples:
        >>> set(ground_truth()["composed"]["bird"])
        {'flew'}
    """
    names = frozenset(PLANTED.names)
    adjectives = {
        adjective: frozenset({noun})
        for noun, its_adjectives in PLANTED.adjectives.items()
        for adjective in its_adjectives
    }
    manners = {
        manner: frozenset(verb for verb, words in PLANTED.manners.items() if manner in words)
        for manner in _MANNERS
    }
    context = {
        PLANTED.actions[animal]: (scene - PLANTED.actions.keys())
        | {animal, setting}
        | PLANTED.manners[PLANTED.actions[animal]]
        for setting, scene in PLANTED.settings.items()
        for animal in scene & PLANTED.actions.keys()
    }
    return {
        "bigram": adjectives | manners,
        "interchangeability": {name: names - {name} for name in PLANTED.names},
        "context": context,
        "composed": {animal: frozenset({verb}) for animal, verb in PLANTED.actions.items()},
        "value": {animal: PLANTED.manners[verb] for animal, verb in PLANTED.actions.items()},
        "query_key": {
            manner: frozenset(a for a, verb in PLANTED.actions.items() if verb in verbs)
            for manner, verbs in manners.items()
        },
    }


def known_truth(name: str) -> dict[str, dict[str, frozenset[str]]]:
    """`ground_truth()` if `name` is that of the fables, else nothing: of other corpora nothing is
    known to be planted."""
    return ground_truth() if name == "fables" else {}


def _story(uniform: Callable[[], float], min_words: int) -> str:
    def pick(options: Sequence[Any]) -> Any:
        return options[int(uniform() * len(options))]

    def pair(options: Sequence[str]) -> tuple[str, str]:
        """Two different options; all ordered pairs are equally likely."""
        first = int(uniform() * len(options))
        step = 1 + int(uniform() * (len(options) - 1))
        return options[first], options[(first + step) % len(options)]

    name, friend = pair(_NAMES)
    setting = pick(_SETTINGS)
    things, animals = _SCENES[setting]

    def sentence(template: str, **slots: str) -> str:
        slots["thing"], slots["other"] = pair(things)
        return template.format(name=name, friend=friend, setting=setting, **slots)

    moral = sentence(pick(_MORALS))
    parts = [sentence(pick(_OPENINGS)), sentence(pick(_SCENERY))]
    count = sum(len(words(part)) for part in (moral, *parts))
    # A story has at least two episodes, whatever `min_words` is.
    while count < min_words or len(parts) < 4:
        animal, verb = pick(animals)
        noun = pick(_NOUNS)
        adjective = pick(_ADJECTIVES[noun])
        episode = sentence(pick(_EPISODES), animal=animal, noun=noun, adj=adjective)
        manner = pick(_MANNERS_OF[verb])
        departure = sentence(pick(_DEPARTURES), animal=animal, manner=manner, verb=verb)
        parts.append(f"{episode} {departure}")
        count += len(words(parts[-1]))
    return " ".join((*parts, moral))
