"""Words that everyday captions are made of, in groups: what excludes what, and what may mean the same.

A group lists words of which one picture's thing can be only one. ``NEAR`` names words inside and across groups that may be said of the
same thing, so that none of them ever stands for a falsehood beside the other.
"""

from __future__ import annotations

from functools import lru_cache

COLOURS = (
    "black",
    "white",
    "brown",
    "red",
    "blue",
    "green",
    "yellow",
    "orange",
    "pink",
    "purple",
    "grey",
    "gray",
    "tan",
    "golden",
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(n) for n, word in enumerate(NUMBERS, 2)}

OPPOSITES: dict[str, tuple[str, ...]] = {
    "big": ("small", "little"), "large": ("small", "little"), "huge": ("small", "tiny"), "small": ("large", "big"),
    "little": ("big",), "tiny": ("large", "huge"), "tall": ("short",), "long": ("short",), "young": ("old", "elderly"),
    "old": ("young",), "older": ("younger",), "younger": ("older",), "elderly": ("young",), "wet": ("dry",), "dry": ("wet",),
    "wide": ("narrow",), "narrow": ("wide",), "empty": ("crowded", "full"), "crowded": ("empty",), "dirty": ("clean",),
    "clean": ("dirty",), "closed": ("open",), "smiling": ("crying",), "laughing": ("crying",), "crying": ("laughing", "smiling"),
    "sunny": ("rainy", "cloudy"), "rainy": ("sunny",), "cloudy": ("sunny",), "wooden": ("metal", "stone"), "thick": ("thin",),
    "thin": ("thick",), "steep": ("flat",), "flat": ("steep",), "round": ("square",), "square": ("round",),
}  # fmt: skip
"""A property -> what is false where it is true."""

DIRECTIONS: tuple[tuple[str, str], ...] = (
    ("to the left of", "to the right of"), ("on the left of", "on the right of"), ("left of", "right of"),
    ("on the left", "on the right"), ("in front of", "behind"), ("above", "below"), ("over", "under"),
    ("on top of", "underneath"), ("inside", "outside"), ("into", "out of"), ("onto", "off"), ("toward", "away from"),
    ("towards", "away from"), ("up", "down"),
)  # fmt: skip
"""Where and which way, with the reverse."""

CONVERSES: tuple[tuple[str, str], ...] = (
    ("to the left of", "to the right of"), ("left of", "right of"), ("above", "below"), ("in front of", "behind"),
    ("on top of", "underneath"),
)  # fmt: skip
"""``A one B`` says the same as ``B other A``."""

VERBS: dict[str, tuple[str, str, str]] = {
    base: (base, third, going)
    for base, third, going in (
        line.split()
        for line in """sit sits sitting|stand stands standing|lie lies lying|walk walks walking|run runs running|jump jumps jumping
        leap leaps leaping|climb climbs climbing|swim swims swimming|sleep sleeps sleeping|push pushes pushing|pull pulls pulling
        throw throws throwing|catch catches catching|eat eats eating|drink drinks drinking|read reads reading|ride rides riding
        fly flies flying|dance dances dancing|surf surfs surfing|ski skis skiing""".replace("\n", "|").split("|")
    )
}
"""Base form -> base, third person, -ing."""
INSTEAD: dict[str, tuple[str, ...]] = {
    "sit": ("stand", "run", "walk", "swim", "climb"), "stand": ("sit", "run", "swim", "lie", "climb"),
    "lie": ("stand", "run", "walk", "jump", "climb"), "walk": ("sit", "swim", "climb", "lie", "sleep"),
    "run": ("sit", "stand", "sleep", "lie", "swim"), "jump": ("sit", "sleep", "lie", "read"), "leap": ("sit", "sleep", "lie"),
    "climb": ("swim", "sleep", "sit", "dance"), "swim": ("climb", "sit", "walk", "read"), "sleep": ("run", "jump", "swim", "stand"),
    "push": ("pull",), "pull": ("push",), "throw": ("catch",), "catch": ("throw",), "read": ("sleep", "run", "swim"),
    "dance": ("sleep", "sit", "read"), "surf": ("ski", "dance", "climb"), "ski": ("surf", "swim", "dance"), "fly": ("swim", "walk"),
}  # fmt: skip

OBJECTS: dict[str, tuple[str, ...]] = {
    "people": ("man", "woman", "boy", "girl", "lady", "guy"),
    "animals": ("dog", "cat", "horse", "bird", "cow", "sheep", "goat", "elephant", "bear", "zebra", "giraffe", "monkey", "puppy"),
    "vehicles": ("car", "truck", "bus", "train", "boat", "bicycle", "bike", "motorcycle", "airplane", "plane", "helicopter"),
    "places": (
        "beach", "street", "park", "field", "forest", "woods", "river", "lake", "pool", "ocean", "mountain", "hill", "road", "desert",
        "kitchen", "bathroom", "bedroom", "office", "playground", "yard",
    ),
    "ground": ("snow", "grass", "sand", "dirt", "water", "mud", "ice"),
    "playthings": ("ball", "frisbee", "stick", "kite", "skateboard", "surfboard", "snowboard", "sled", "rope", "balloon"),
    "seats": ("bench", "chair", "couch", "sofa", "bed", "swing", "table"),
    "food": ("pizza", "sandwich", "cake", "salad", "banana", "apple", "donut", "carrot", "burger"),
    "instruments": ("guitar", "drum", "piano", "violin", "trumpet"),
    "games": ("soccer", "tennis", "basketball", "football", "baseball", "hockey", "volleyball"),
    "headwear": ("hat", "helmet", "hood"),
    "screens": ("television", "laptop", "phone", "camera"),
}  # fmt: skip
ANIMATE = frozenset(OBJECTS["people"] + OBJECTS["animals"] + ("child", "baby", "person", "toddler", "kid", "lady"))
PLURALS = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "puppies": "puppy", "ladies": "lady", "buses": "bus",
    "benches": "bench", "couches": "couch", "sandwiches": "sandwich", "beaches": "beach", "babies": "baby", "sheep": "sheep",
}  # fmt: skip

NEAR: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in """brown tan golden yellow orange blond blonde beige gold|grey gray silver white|pink red purple orange maroon
    man boy guy gentleman male men boys guys|woman girl lady female women girls ladies|dog puppy dogs puppies|sheep goat
    car truck van suv vehicle|bicycle bike motorcycle motorbike biker cyclist bicyclist|boat ship canoe kayak
    airplane plane helicopter|river lake pond pool ocean sea water stream beach shore wave waves waterfall swim swims swimming
    street road path sidewalk city town|field park grass grassy lawn yard playground meadow|mountain hill cliff rock rocky mountains
    forest woods trees tree|snow ice snowy icy|sand dirt mud sandy dusty muddy beach desert|kitchen bathroom bedroom office room
    ball basketball football baseball soccer tennis volleyball|couch sofa chair bench|soccer football rugby|hat cap helmet hood
    surfboard skateboard snowboard board|swing rope|large big huge|small little tiny|old older elderly|young younger child
    stand standing stands|jump leap jumping leaping jumps leaps hop hopping|lie lying lies laying lay lays sleep sleeping sleeps rest resting
    run running runs race racing races|walk walking walks hike hiking stroll strolling|climb climbing climbs climber hike
    sunny sun|crowded crowd full|smiling laughing happy smile smiles|television tv screen|laptop computer|camera photographer
    bed couch|swing playground|dance dancing dances""".replace("\n", "|").split("|")
)

SYNONYMS: tuple[tuple[str, str], ...] = (
    ("couch", "sofa"), ("bicycle", "bike"), ("large", "big"), ("photograph", "photo"), ("television", "tv"), ("airplane", "plane"),
    ("kid", "child"), ("beside", "next to"), ("grey", "gray"), ("automobile", "car"), ("leaps", "jumps"), ("leaping", "jumping"),
    ("street", "road"), ("lying", "laying"),
)  # fmt: skip
"""Words that may be exchanged in a caption without changing what is true."""

LINKS = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "but",
        "with",
        "without",
        "of",
        "in",
        "on",
        "at",
        "to",
        "by",
        "for",
        "from",
        "into",
        "onto",
        "over",
        "under",
        "above",
        "below",
        "beside",
        "behind",
        "between",
        "before",
        "after",
        "near",
        "next",
        "left",
        "right",
        "top",
        "bottom",
        "up",
        "down",
        "is",
        "are",
        "was",
        "were",
        "be",
        "being",
        "been",
        "has",
        "have",
        "having",
        "there",
        "this",
        "that",
        "these",
        "those",
        "it",
        "its",
        "which",
        "who",
        "while",
        "as",
        "than",
        "then",
        "his",
        "her",
        "their",
        "him",
        "them",
        "he",
        "she",
        "they",
        "through",
        "across",
        "along",
        "around",
        "off",
        "out",
        "towards",
        "toward",
        "against",
        "inside",
        "outside",
        "underneath",
        "during",
        "about",
        "like",
        "together",
        "up",
        "and",
    ]
)
ARTICLES = frozenset({"a", "an", "the"})
SYMMETRIC = frozenset(
    [
        "and",
        "or",
        "with",
        "next",
        "beside",
        "near",
        "by",
        "together",
        "while",
        "as",
        ",",
        ";",
        "kissing",
        "kisses",
        "hugging",
        "hugs",
        "facing",
        "meeting",
        "meets",
        "fighting",
        "wrestling",
        "dancing",
        "touching",
        "talking",
        "shaking",
        "embracing",
        "racing",
        "against",
        "among",
        "alongside",
        "like",
        "between",
    ]
)
"""What stands between two beings who may change places without changing what is true, or of whom different things are said."""


@lru_cache(maxsize=1 << 16)
def near(word: str) -> frozenset[str]:
    """The word and all that may be said of the same thing.

    Example:
        >>> sorted(near("sofa"))
        ['bench', 'chair', 'couch', 'sofa']
    """
    return frozenset({word}).union(*(group for group in NEAR if word in group))


def singular(word: str) -> str:
    """The singular of a known noun, or the word itself.

    Example:
        >>> singular("men"), singular("dogs"), singular("grass")
        ('man', 'dog', 'grass')
    """
    if word in PLURALS:
        return PLURALS[word]
    return word[:-1] if word.endswith("s") and word[:-1] in _NOUNS else word


def plural(word: str) -> str:
    """The plural of a known noun."""
    return _MANY.get(word, word + ("es" if word.endswith(("s", "ch", "sh", "x")) else "s"))


_MANY = {one: many for many, one in PLURALS.items()}
_NOUNS = ANIMATE.union(*OBJECTS.values())
GROUP_OF = {word: group for group, words in OBJECTS.items() for word in words}
COLOUR_SET, NUMBER_SET = frozenset(COLOURS), frozenset(NUMBERS)
FORM_OF = {form: (base, place) for base, forms in VERBS.items() for place, form in enumerate(forms)}
"""Verb form -> base form and place among the forms."""
