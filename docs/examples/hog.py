"""What a practitioner had before networks: a linear SVM on histograms of oriented gradients, on the split of a run.

    python -m docs.examples.hog --dataset=utkface --primary=race --data_dir=DATA --seed=100

learns from ``defend``, chooses its penalty on ``validation`` and prints what it scores on ``test``, plainly and balanced: what an
undefended reference has to beat (docs/RESULTS.md). Two minutes of a core.
"""

import jax
import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from ani_jax.config import RunConfig
from experiments import flags

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)
"""Of the SVM, scikit-learn's C."""


def histograms(images: np.ndarray) -> np.ndarray:
    """Histograms of (n, h, w, c) images in grey: 9 orientations, cells of 8x8, blocks of 2x2 cells (Dalal and Triggs 2005)."""
    try:
        from skimage.feature import hog
    except ImportError:
        raise ValueError('dataset=: is described by scikit-image; pip install "ani-jax[examples]"') from None
    grey = images @ np.array([0.299, 0.587, 0.114]) if images.shape[-1] == 3 else images[..., 0]
    return np.stack([hog(one, pixels_per_cell=(8, 8), cells_per_block=(2, 2)) for one in grey])


def fitted(data: dict[str, tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Accuracy and balanced accuracy on "test" of the SVM that is best on "validation", balanced.

    Args:
        data: split -> features and labels, of "defend", "validation" and "test".
    """
    best = (-1.0, 0.0, 0.0)
    for penalty in PENALTIES:
        for weights in (None, "balanced"):
            line = LinearSVC(C=penalty, class_weight=weights, max_iter=3000, dual=True)
            model = make_pipeline(StandardScaler(), line).fit(*data["defend"])
            held, test = (model.predict(data[name][0]) for name in ("validation", "test"))
            strength = balanced_accuracy_score(data["validation"][1], held)
            truth = data["test"][1]
            best = max(best, (strength, accuracy_score(truth, test), balanced_accuracy_score(truth, test)))
    return best[1:]


def main(_: list[str]) -> None:
    """Prints the scores for what the flags name."""
    values = flags.FLAGS
    asked = flags.given(("dataset", "primary", "image_size", "data_dir"))
    base = RunConfig.usual("none", values.dataset)
    config = RunConfig("none", sensitive=(), **{"image_size": base.image_size, **asked})
    data = config.load(values.seed)
    rows = data.defend.batch(jax.random.key(0), np.arange(data.defend.size))
    parts = {
        name: (histograms(np.asarray(batch.image)), np.asarray(batch.label))
        for name, batch in (("defend", rows), ("validation", data.validation), ("test", data.test))
    }
    plain, balanced = fitted(parts)
    print(f"{config.dataset}, {data.primary.name}, seed {values.seed}: {plain:.1%}, balanced {balanced:.1%} on test")


if __name__ == "__main__":
    flags.define(
        "primary",
        "image_size",
        "data_dir",
        dataset=(str, "utkface", "A data set of pictures."),
        seed=(int, 100, "Of the split."),
    )
    flags.run(main)
