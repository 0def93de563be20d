"""Data sets that tfds's own builders prepare; most of them need TensorFlow for it, and none to be read."""

from ani_jax.data.entry import Entry
from ani_jax.data.pictures import Spec

ENTRIES = (
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
)
