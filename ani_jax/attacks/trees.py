"""Gradient-boosted trees: many features that each say little and nothing in a line (METHODS 5.0 c)."""

import dataclasses
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ani_jax.attacks.base import Attack, Context, Fitted, register
from ani_jax.attacks.query import Observed, summarise
from ani_jax.attacks.views import Joined
from ani_jax.targets.attribute import Attribute
from ani_jax.types import PRNGKey


@register(Attribute)
@dataclasses.dataclass(frozen=True)
class Boosted(Attack):
    """scikit-learn's histogram gradient boosting on views of z, stopped where ``validation`` no longer gains.

    METHODS 2.2 tells why: outsiders measured 69% of ``partition``'s inks from standardised features and 72% from sorted ones, of
    two thousand quiet votes that a small residual network read at 52%, chance 25%.

    Attributes:
        views: which, beside each other.
        rows: of the sample that it learns from, at most.
        rate: learning rate.
    """

    target: Attribute
    views: tuple[str, ...] = ("standardised", "sorted", "pooled")
    rows: int = 8000
    rate: float = 0.1

    family = "attribute"
    bursts = True
    levels = MappingProxyType(
        {"standard": {"steps": 120, "views": ("standardised", "pooled")}, "thorough": {"steps": 600, "rows": 40_000}}
    )

    def fit(self, context: Context) -> Fitted:
        """Boosts until ``validation`` has gained nothing for ten rounds."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        asked, name = context.asked, self.target.name
        z, labels = asked.sample_z[: self.rows], np.asarray(asked.sample.sensitive[name])[: self.rows]
        view = Joined.of(asked.sample_z, self.views)
        truth = np.asarray(asked.validation.sensitive[name])
        # A class that none of these rows has cannot be guessed; scikit-learn refuses to look at it.
        heard = np.isin(truth, labels)
        # A fraction of the features at each split: the trees differ, and are made in that fraction of the time.
        model = HistGradientBoostingClassifier(
            learning_rate=self.rate,
            max_iter=self.steps,
            max_features=0.3,
            early_stopping=True,  # type: ignore[arg-type]
            random_state=int(jax.random.randint(context.key, (), 0, 2**31 - 1)),
        )
        model.fit(view.rows(z), labels, X_val=view.rows(asked.held_z)[heard], y_val=truth[heard])
        return Fitted(Trees(model, view, self.target.classes))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trees:
    """Fitted trees.

    Attributes:
        model: scikit-learn's (static).
        view: what they look at.
        classes: K (static).
    """

    model: Any = dataclasses.field(metadata={"static": True})
    view: Joined
    classes: int = dataclasses.field(metadata={"static": True})

    def __call__(self, key: PRNGKey, z: Observed) -> Array:
        """Log posterior of each class, (n, K); a class that was never seen is never chosen."""
        del key
        found = np.full((z.shape[1], self.classes), -30.0)
        found[:, self.model.classes_] = np.log(
            np.maximum(self.model.predict_proba(self.view.rows(summarise(z))), 1e-12)
        )
        return jnp.asarray(found, jnp.float32)
