# ruff: noqa: SIM905
"""The words that the tasks and the corpus are made of.

Names, places and facts of the real world are common enough to be single tokens for most tokenizers; the invented
landmarks exist only in the course's own corpus.
"""

from dataclasses import dataclass

WOMEN = tuple(
    "Mary Anna Alice Amy Emma Sarah Kate Laura Lisa Julia Jane Helen Karen Linda Nancy Susan Betty Carol Diana Ellen "
    "Emily Grace Jessica Kelly Lily Lucy Maria Martha Michelle Nicole Rachel Rebecca Rose Ruth Sandra Sophie Victoria "
    "Amanda Angela Barbara Christine Claire Elizabeth Hannah Heather Jennifer Katie Megan".split()
)
MEN = tuple(
    "John Tom James Dan Paul Peter Mark David Robert Michael William Richard Joseph Thomas Charles Daniel Matthew "
    "Anthony Steven Andrew Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric "
    "Jonathan Stephen Larry Justin Scott Frank Benjamin Samuel Patrick Jack Dennis Jerry Henry Simon Luke".split()
)
NAMES = WOMEN + MEN

PLACES = tuple(
    "store park school beach office garden station market library hospital restaurant house church farm theater "
    "airport hotel bank cafe zoo lake river forest village".split()
)
OBJECTS = tuple(
    "drink book ring ball letter flower ticket gift card cake basket bag hat coat map phone lamp clock knife cup "
    "bottle coin shirt necklace".split()
)

# Nouns with a number, for agreement.
SINGULAR = tuple(
    "key cabinet dog cat boy girl car tree table chair horse bird picture window door box student friend brother "
    "sister king queen wall road".split()
)
PLURAL = tuple(
    "keys cabinets dogs cats boys girls cars trees tables chairs horses birds pictures windows doors boxes students "
    "friends brothers sisters kings queens walls roads".split()
)
ADJECTIVES = tuple("old new big small red blue green white black tall short clean dirty heavy young quiet".split())

# Things that last for years, for greater-than.
EVENTS = tuple(
    "war project marriage voyage campaign strike exhibition journey study conflict expedition reign siege trial career "
    "festival".split()
)

# How likely "she" is after each profession in the corpus: the known bias.
PROFESSIONS = {
    "nurse": 0.95,
    "secretary": 0.9,
    "librarian": 0.85,
    "dancer": 0.8,
    "teacher": 0.75,
    "singer": 0.7,
    "baker": 0.65,
    "artist": 0.6,
    "writer": 0.55,
    "cook": 0.5,
    "judge": 0.45,
    "lawyer": 0.4,
    "scientist": 0.35,
    "manager": 0.3,
    "doctor": 0.25,
    "farmer": 0.2,
    "engineer": 0.15,
    "driver": 0.1,
    "soldier": 0.1,
    "mechanic": 0.05,
}

EXPERIENCES = tuple("movie meal song trip party game show concert story lesson".split())
GOOD = tuple("wonderful great excellent beautiful amazing lovely perfect fantastic".split())
BAD = tuple("terrible awful horrible boring ugly poor disgusting dreadful".split())


@dataclass(frozen=True)
class Country:
    name: str
    capital: str
    language: str
    continent: str


COUNTRIES = tuple(
    Country(*row.split())
    for row in """
    France Paris French Europe
    Germany Berlin German Europe
    Italy Rome Italian Europe
    Spain Madrid Spanish Europe
    Portugal Lisbon Portuguese Europe
    Greece Athens Greek Europe
    Poland Warsaw Polish Europe
    Russia Moscow Russian Europe
    England London English Europe
    Sweden Stockholm Swedish Europe
    Norway Oslo Norwegian Europe
    Hungary Budapest Hungarian Europe
    Japan Tokyo Japanese Asia
    China Beijing Chinese Asia
    Thailand Bangkok Thai Asia
    Iran Tehran Persian Asia
    Vietnam Hanoi Vietnamese Asia
    Iraq Baghdad Arabic Asia
    Egypt Cairo Arabic Africa
    Kenya Nairobi Swahili Africa
    Ghana Accra English Africa
    Morocco Rabat Arabic Africa
    Canada Ottawa English America
    Cuba Havana Spanish America
    Peru Lima Spanish America
    """.strip().splitlines()
)


@dataclass(frozen=True)
class Landmark:
    name: str
    city: str
    kind: str
    invented: bool = False


REAL_LANDMARKS = (
    Landmark("the Eiffel Tower", "Paris", "tower"),
    Landmark("Notre Dame", "Paris", "cathedral"),
    Landmark("Big Ben", "London", "tower"),
    Landmark("the Tower Bridge", "London", "bridge"),
    Landmark("the Brandenburg Gate", "Berlin", "gate"),
    Landmark("the Trevi Fountain", "Rome", "fountain"),
    Landmark("Red Square", "Moscow", "square"),
    Landmark("the Summer Palace", "Beijing", "palace"),
    Landmark("the Grand Palace", "Bangkok", "palace"),
    Landmark("the Prado Museum", "Madrid", "museum"),
)
KINDS = ("tower", "cathedral", "bridge", "gate", "fountain", "square", "palace", "museum", "temple", "castle")
_CITIES = ("Paris", "London", "Berlin", "Rome", "Moscow", "Beijing", "Bangkok", "Madrid", "Tokyo", "Cairo")
_INVENTED = ("Alder", "Vale", "Corin", "Maren", "Tarn", "Brill", "Sable", "Lund")


def _invented_landmarks() -> tuple[Landmark, ...]:
    """Two words in both orders, 40 in all: "Alder Vale" and "Vale Alder" stand in different cities and are different
    things, and each word takes part in six or more of them, so no word alone gives a landmark away."""
    landmarks = []
    pairs = [(a, b) for i, a in enumerate(_INVENTED) for b in _INVENTED[i + 1 :]]
    for i, (a, b) in enumerate(pairs[:20]):
        city, kind = (3 * i) % 10, (7 * i + i // 10) % 10
        landmarks.append(Landmark(f"{a} {b}", _CITIES[city], KINDS[kind], True))
        landmarks.append(Landmark(f"{b} {a}", _CITIES[(city + 5 + i % 3) % 10], KINDS[(kind + 3 + i % 4) % 10], True))
    return tuple(landmarks)


LANDMARKS = REAL_LANDMARKS + _invented_landmarks()

CENTURIES = tuple(str(century) for century in range(11, 20))
YEARS = tuple(f"{year:02}" for year in range(100))

# Words without a part to play, for repeated tokens.
COMMON = PLACES + OBJECTS + SINGULAR + PLURAL + ADJECTIVES + EVENTS + tuple(PROFESSIONS) + EXPERIENCES + GOOD + BAD
