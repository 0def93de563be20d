"""Messages to a clinic, made up: what each is about, and what it should not tell.

A message says a fact outright, hints at it, or leaves it out, so that not even its reader knows all of them.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

TOPICS = {
    "appointment": (
        "could we move the appointment of {who} to another slot",
        "{who} cannot make it to the booked visit and would like a new date",
        "is there anything free this week for {who}",
        "please confirm that the doctor can see {who}",
        "{who} needs to cancel and come some other time",
        "the calendar shows {who} twice, which visit counts",
    ),
    "prescription": (
        "{who} has run out of tablets and needs a repeat",
        "please send the next prescription for {who} to the usual pharmacy",
        "the chemist says the script for {who} has expired",
        "can the dose for {who} be renewed for three months",
        "the pharmacy gave {who} another brand, is that right",
        "{who} lost the last pack and asks for a replacement",
    ),
    "bill": (
        "the invoice for {who} seems to charge one item twice",
        "{who} has already paid and got a reminder all the same",
        "could {who} settle the account in two instalments",
        "please send the receipt for {who} once more",
        "the amount that {who} was charged is not the one we agreed",
        "who do we ask about the fee that {who} was billed",
    ),
    "results": (
        "are the laboratory values of {who} back yet",
        "{who} would like to hear what the scan has shown",
        "the blood test of {who} was two weeks ago and nobody has written",
        "please explain the numbers in the report to {who}",
        "could the findings for {who} be sent to us as a copy",
        "{who} is worried about one value in the sample",
    ),
    "referral": (
        "{who} needs a letter for the specialist",
        "could the family doctor refer {who} to the hospital",
        "the consultant will not see {who} without a transfer note",
        "please pass the file of {who} on to the other department",
        "where should {who} go for a second opinion",
        "the clinic that {who} was sent to has no record of it",
    ),
    "complaint": (
        "{who} waited two hours and nobody apologised",
        "we are unhappy with how {who} was spoken to at the desk",
        "{who} was given the wrong room and then sent away",
        "this is the third time that {who} has been ignored",
        "{who} found the ward dirty and wants somebody to answer for it",
        "I must object to the way {who} was treated",
    ),
}
"""Topic -> ways to say it: what the provider is asked to tell."""
NAMES = {
    "female": "Anna Maria Elena Ingrid Fatima Chloe Sofia Hannah Olga Priya Mei Julia Martha Nora Lucia Amina Greta Helen "
    "Rosa Yuki Clara Ewa Leila Irene Paula Vera Agnes Diana Zoe Ruth",
    "male": "Peter Marco Johan Ahmed Lucas Thomas Igor Rahul Wei Daniel Oscar Bruno Hugo Samir Felix Henry Pablo Kenji Karl "
    "Piotr Omar George Simon Victor Adam Leo Walter Ivan Noel Frank",
    "either": "Alex Sam Robin Kim Jordan Charlie Taylor Sascha Andrea Jamie Noa Jo",
}
"""Sex -> first names; those of either tell none."""
FAMILIES = "Berg Silva Novak Rossi Keller Moreau Lind Costa Haas Murphy Petrov Khan Olsen Marin Weber Dubois Okafor Sato Tan Vega"
SEXES = {
    "female": ("she says it cannot wait long", "her patience is running out", "she will explain it herself"),
    "male": ("he says it cannot wait long", "his patience is running out", "he will explain it himself"),
}
CITIES = {
    "Lyon": ("Lyon", ("near Bellecour", "by the Rhone", "from the Croix Rousse")),
    "Porto": ("Porto", ("by the Douro", "near the Ribeira", "from Boavista")),
    "Dublin": ("Dublin", ("by the Liffey", "near Temple Bar", "from Ballsbridge")),
    "Oslo": ("Oslo", ("near Majorstuen", "by the fjord", "from Frogner")),
    "Vienna": ("Vienna", ("near the Prater", "by the Danube", "from Ottakring")),
    "Athens": ("Athens", ("near Syntagma", "by Piraeus harbour", "from Kolonaki")),
}
"""City -> its name, and what only those who know it recognise."""
PLACES = ("we write from {}", "this concerns the practice in {}", "the {} office has the file", "we live in {} now")
DIAGNOSES = {
    "asthma": ("the inhaler no longer helps", "there is wheezing at night"),
    "diabetes": ("the insulin pen is empty", "the sugar readings jump about"),
    "depression": ("the sertraline makes no difference", "getting out of bed is hard"),
    "epilepsy": ("the valproate causes tremor", "there was another seizure"),
    "migraine": ("the triptan wears off too early", "light and noise are unbearable"),
    "arthritis": ("the methotrexate upsets the stomach", "the joints are stiff and swollen"),
}
"""Diagnosis -> its drugs and signs."""
SIGNS = ("sleep has been poor", "there is little strength left", "everything has got worse since spring")
"""What fits any diagnosis."""
NAMED = ("this is about the {}", "the {} is in the notes", "as you know it is {}", "the {} was diagnosed last year")
DETAILS = {
    "morning": ("best in the morning", "mornings do not suit, so late in the day"),
    "phone": ("reply by phone please", "reply in writing please", "an email will do"),
    "daughter": ("a daughter will come along", "a neighbour will come along", "nobody else will come"),
    "taxi": ("a taxi is booked", "the bus stops outside", "we will walk over"),
    "Monday": ("Monday would be ideal", "Thursday would be ideal"),
    "insurance": ("the insurance covers it", "we pay for it ourselves"),
    "urgent": ("it is urgent", "there is no hurry"),
    "stairs": ("stairs are a problem", "a ramp is not needed"),
}
"""Word to find -> what it is said with, and what is said in its place."""


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Messages beside what is known of each.

    Attributes:
        text: the messages; no two are equal.
        topic: name of what each is about.
        hidden: attribute -> its class of each, by name; "word_NAME" says whether it is among the words.
        group: which facts each states: rows of one group are paraphrases.
    """

    text: list[str]
    topic: np.ndarray
    hidden: dict[str, np.ndarray]
    group: np.ndarray


def corpus(rows: int, seed: int = 0) -> Corpus:
    """Makes up messages: facts drawn independently of one another, each set of facts told twice in other words.

    Args:
        rows: how many messages, an even number.
        seed: of all that is drawn.
    """
    rng = np.random.default_rng(seed)
    told: dict[str, list] = {"text": [], "topic": [], "sex": [], "city": [], "diagnosis": []}
    seen: set[str] = set()
    while len(told["text"]) < rows:
        topic, sex, city, diagnosis = (pick(rng, list(names)) for names in (TOPICS, SEXES, CITIES, DIAGNOSES))
        name = pick(rng, NAMES[sex if rng.random() < 0.7 else "either"].split())
        who = f"{name} {pick(rng, FAMILIES.split())}" if rng.random() < 0.7 else name
        details = [word for word in DETAILS if rng.random() < 0.7]
        chosen = {
            word: DETAILS[word][0 if rng.random() < 0.6 else rng.integers(1, len(DETAILS[word]))] for word in details
        }
        texts = [message(rng, topic, sex, city, diagnosis, who, chosen) for _ in range(2)]
        if texts[0] == texts[1] or seen & set(texts):
            continue
        seen.update(texts)
        for text in texts:
            for key, value in zip(told, (text, topic, sex, city, diagnosis)):
                told[key].append(value)
    words = [set(re.findall(r"\w+", text.lower())) for text in told["text"]]
    hidden = {key: np.array(told[key]) for key in ("sex", "city", "diagnosis")}
    hidden |= {f"word_{word}": np.array([word.lower() in one for one in words]) for word in DETAILS}
    return Corpus(told["text"], np.array(told["topic"]), hidden, np.arange(rows) // 2)


def message(
    rng: np.random.Generator, topic: str, sex: str, city: str, diagnosis: str, who: str, details: dict[str, str]
) -> str:
    """One way to tell these facts: of sex, city and diagnosis one in five says nothing."""
    parts = [pick(rng, TOPICS[topic]).format(who=who)]
    if rng.random() < 0.5:
        parts.append(pick(rng, SEXES[sex]))
    how = rng.random()
    if how < 0.8:
        name, hints = CITIES[city]
        parts.append(pick(rng, PLACES).format(name) if how < 0.5 else f"we come {pick(rng, hints)}")
    how = rng.random()
    signs = SIGNS if how > 0.8 else DIAGNOSES[diagnosis]
    parts.append(pick(rng, NAMED).format(diagnosis) if how < 0.4 else pick(rng, signs))
    parts += details.values()
    head, *rest = parts
    order = rng.permutation(len(rest))
    sentences = [head, *(rest[place] for place in order)]
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def pick(rng: np.random.Generator, among: Sequence[str]) -> str:
    """One of them."""
    return among[rng.integers(len(among))]
