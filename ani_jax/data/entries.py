"""What the catalogue knows of each data set. A new data set is one entry here, and one recipe or loader elsewhere."""

import dataclasses
from collections.abc import Sequence

from ani_jax.data.pictures import Spec, View


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the catalogue knows of a data set before anything is loaded.

    Attributes:
        name: what the user types.
        primary: name of the task that is solved unless the user names another.
        sensitive: names of the attributes that are attacked unless the user names others.
        others: names that both may be chosen from besides these; ``None`` allows any feature of the prepared data.
        size: number of originals.
        licence: of the data, with its authors.
        description: one line.
        obtain: how to get it.
        spec: how prepared pictures are read; ``None`` for the embedded digits.
        correlated: for the digits, whether the ink agrees with the parity.
        classifier_macs: MACs of the smallest whole classifier known to come within a point of the undefended split at 32x32; a
            client that costs more could as well send only its answer. ``None`` where nobody looked.
    """

    name: str
    primary: str
    sensitive: tuple[str, ...]
    size: int
    licence: str
    description: str
    obtain: str
    spec: Spec | None = None
    others: tuple[str, ...] | None = ()
    correlated: bool = False
    classifier_macs: int | None = None

    @property
    def prepared(self) -> str | None:
        """The name under which it is prepared; ``None`` where nothing need be."""
        return None if self.spec is None else self.spec.name

    def tasks(self, primary: str | None, sensitive: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
        """The task and the attributes that are meant: the given ones, or else its own.

        Attributes that are not given leave out the task.

        Raises:
            ValueError: for a name that the data set does not have, or one named twice.

        Example:
            >>> ENTRIES[0].tasks("ink", None)
            ('ink', ('paper',))
        """
        chosen = self.primary if primary is None else primary
        if sensitive is None:
            sensitive = tuple(name for name in self.sensitive if name != chosen)
        allowed = None if self.others is None else (self.primary, *self.sensitive, *self.others)
        for flag, name in (("primary", chosen), *(("sensitive", name) for name in sensitive)):
            if allowed is not None and name not in allowed:
                raise ValueError(f"{flag}={name}: must be one of {', '.join(allowed)} for {self.name}")
        twice = [name for number, name in enumerate(sensitive) if name == chosen or name in sensitive[:number]]
        if twice:
            raise ValueError(
                f"sensitive={twice[0]}: is the primary task or named twice; every task needs a name of its own"
            )
        return chosen, tuple(sensitive)


def _classes(*names: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Names for the classes 0, 1, ... of a feature that tfds only numbers."""
    return tuple((name, (str(number),)) for number, name in enumerate(names))


def _numbers(first: int, last: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(first, last + 1))


_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_AGES = (
    ("0-12", _numbers(0, 12)),
    ("13-19", _numbers(13, 19)),
    ("20-29", _numbers(20, 29)),
    ("30-39", _numbers(30, 39)),
    ("40-59", _numbers(40, 59)),
    ("60 and more", _numbers(60, 116)),
)
_ANIMATE_20 = tuple(
    str(number) for number in (0, 1, 7, 8, 11, 12, 13, 14, 15, 16)
)  # Coarse classes of cifar100: mammals, fish, insects, reptiles, people and so on.

_DIGITS = Entry(
    name="digits",
    primary="digit",
    sensitive=("ink", "paper"),
    size=1797,
    licence="CC BY 4.0 (Alpaydin and Kaynak 1998, UCI)",
    description="handwritten digits, ink and paper independent of them: full utility at chance leakage is attainable",
    obtain="ships inside scikit-learn",
    # --defense=none --width=4 --steps=800 --learning_rate=0.005, edge and cloud together: 97.8% on validation, seed 0.
    classifier_macs=222_464,
)

ENTRIES: tuple[Entry, ...] = (
    _DIGITS,
    dataclasses.replace(
        _DIGITS,
        name="digits-correlated",
        correlated=True,
        description="the same scans, ink agrees with the digit's parity in 80%: knowing the digit gives the ink at 40%",
    ),
    Entry(
        name="mnist",
        primary="label",
        sensitive=("ink", "paper"),
        size=70_000,
        licence="CC BY-SA 3.0 (LeCun and Cortes)",
        description="handwritten digits, painted as the embedded ones are",
        obtain="four official idx files, --manual_dir",
        spec=Spec("mnist", painted=True),
    ),
    Entry(
        name="fashion_mnist",
        primary="class",
        sensitive=("group", "ink"),
        others=("paper",),
        size=70_000,
        licence="MIT (Zalando SE)",
        description="clothes in drawn inks on drawn papers; the class determines the group and not the ink",
        obtain="four official idx files, --manual_dir",
        spec=Spec(
            "fashion_mnist",
            views=(
                View("class", "label", _classes(*_FASHION)),
                View(
                    "group",
                    "label",
                    (
                        ("tops", ("0", "2", "4", "6")),
                        ("trousers and dresses", ("1", "3")),
                        ("footwear", ("5", "7", "9")),
                        ("bags", ("8",)),
                    ),
                ),
            ),
            painted=True,
        ),
    ),
    Entry(
        name="kmnist",
        primary="label",
        sensitive=("ink", "paper"),
        size=70_000,
        licence="CC BY-SA 4.0 (CODH)",
        description="cursive Japanese characters, painted as the digits are",
        obtain="four official idx files, --manual_dir",
        spec=Spec("kmnist", painted=True),
    ),
    Entry(
        name="emnist",
        primary="label",
        sensitive=("ink", "paper"),
        size=131_600,
        licence="public domain (NIST)",
        description="handwritten letters and digits in 47 balanced classes, painted as the digits are",
        obtain="tfds downloads it, needs the tf extra",
        spec=Spec("emnist/balanced", painted=True),
    ),
    Entry(
        name="cifar10",
        primary="class",
        sensitive=("animate",),
        size=60_000,
        licence="none stated; for research (Krizhevsky)",
        description="small photographs; the class determines whether it is an animal",
        obtain="cifar-10-binary.tar.gz, --manual_dir",
        spec=Spec(
            "cifar10",
            views=(
                View("class", "label", _classes(*_CIFAR10)),
                View("animate", "label", (("thing", ("0", "1", "8", "9")), ("animal", _numbers(2, 7)))),
            ),
        ),
    ),
    Entry(
        name="cifar100",
        primary="coarse_label",
        sensitive=("label",),
        others=("animate",),
        size=60_000,
        licence="none stated; for research (Krizhevsky)",
        description="small photographs: 20 coarse classes are the task, the 100 fine ones inside them are sensitive",
        obtain="cifar-100-binary.tar.gz, --manual_dir",
        spec=Spec(
            "cifar100",
            views=(
                View(
                    "animate",
                    "coarse_label",
                    (
                        ("thing or place", tuple(one for one in _numbers(0, 19) if one not in _ANIMATE_20)),
                        ("animal or person", _ANIMATE_20),
                    ),
                ),
            ),
        ),
    ),
    Entry(
        name="celeb_a",
        primary="Smiling",
        sensitive=("Male", "Young"),
        others=None,
        size=202_599,
        licence="research use only; the pictures belong to their owners (MMLab, CUHK)",
        description="faces with 40 attributes, any against any; splits by identity",
        obtain="tfds downloads it or takes --manual_dir, needs the tf extra",
        spec=Spec("celeb_a", identity="Identity_No"),
    ),
    Entry(
        name="lfw",
        primary="label",
        sensitive=(),
        size=13_233,
        licence="research use; the pictures belong to their owners (UMass)",
        description="faces; the task is the identity, of people with 20 pictures or more, so splits are by picture",
        obtain="tfds downloads it, needs the tf extra",
        spec=Spec("lfw", identity="label", least=20),
    ),
    Entry(
        name="dsprites",
        primary="label_shape",
        sensitive=("label_scale", "label_x_position", "label_y_position"),
        others=("label_orientation",),
        size=737_280,
        licence="zlib (DeepMind)",
        description="white shapes on black from independent factors",
        obtain="tfds downloads it, needs the tf extra",
        spec=Spec("dsprites"),
    ),
    Entry(
        name="shapes3d",
        primary="label_shape",
        sensitive=("label_floor_hue", "label_wall_hue", "label_object_hue"),
        others=("label_scale", "label_orientation"),
        size=480_000,
        licence="Apache-2.0 (DeepMind)",
        description="a shape in a room from independent factors",
        obtain="tfds downloads it, needs the tf extra",
        spec=Spec("shapes3d"),
    ),
    Entry(
        name="utkface",
        primary="gender",
        sensitive=("race", "age"),
        size=23_708,
        licence="research use only; the pictures belong to their owners (Zhang, Song and Qi)",
        description="faces by age, gender and race, as annotated by a network and checked by people; no identities",
        obtain="JPEGs or their zip archive, whole or a part of it, --manual_dir",
        spec=Spec("utkface", views=(View("age", "age", _AGES),)),
    ),
    Entry(
        name="fairface",
        primary="gender",
        sensitive=("race", "age"),
        size=97_698,
        licence="CC BY 4.0 (Karkkainen and Joo)",
        description="faces balanced over seven races, by age, gender and race",
        obtain="two csv files and the pictures or their zip archive, --manual_dir",
        spec=Spec("fairface"),
    ),
    Entry(
        name="facescrub",
        primary="gender",
        sensitive=("identity",),
        size=106_863,
        licence="the list CC BY-NC-ND; the pictures belong to their owners (Ng and Winkler)",
        description="faces of 530 actors; the identity, of those with 20 pictures or more, determines the gender",
        obtain="folders actors/ and actresses/ or their zip archive, --manual_dir",
        spec=Spec("facescrub", identity="identity", least=20),
    ),
    Entry(
        name="orl_faces",
        primary="identity",
        sensitive=(),
        size=400,
        licence="free for research with credit (AT&T Laboratories Cambridge)",
        description="40 people, 10 grey pictures each; the task is the identity, so splits are by picture",
        obtain="folders s1 to s40 or att_faces.zip, --manual_dir",
        spec=Spec("orl_faces", identity="identity"),
    ),
)
"""Every data set that has an entry, in the order in which it is listed; ``load`` takes any other tfds name too."""
