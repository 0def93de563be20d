import numpy as np
import pytest
import skimage.metrics
import sklearn.metrics

from ani_jax.losses.reconstruction import ms_ssim
from ani_jax.records import Estimate
from ani_jax.targets import metrics
from ani_jax.targets.metrics import Bootstrap


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_classification_agrees_with_sklearn(rng):
    labels = rng.integers(0, 3, 200)
    scores = np.round(rng.random((200, 3)) + 0.3 * np.eye(3)[labels], 1)  # Rounded, so that there are ties.
    scores /= scores.sum(1, keepdims=True)
    found = metrics.classification(scores, labels, Bootstrap.of(None, 200))
    assert found["balanced_accuracy"].value == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, scores.argmax(1))
    )
    assert found["accuracy"].value == pytest.approx((scores.argmax(1) == labels).mean())
    assert found["auc"].value == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores, multi_class="ovr"))
    assert metrics.balanced_accuracy(scores.argmax(1), labels) == pytest.approx(found["balanced_accuracy"].value)


def test_weighted_auc_is_that_of_repeated_examples(rng):
    labels, scores = rng.integers(0, 2, 30), np.round(rng.random((30, 2)), 1)
    weights = rng.integers(0, 3, (1, 30)).astype(float)
    index = np.repeat(np.arange(30), weights[0].astype(int))
    repeated = [sklearn.metrics.roc_auc_score(labels[index] == k, scores[index, k]) for k in range(2)]
    assert metrics.auc(scores, labels, weights)[0] == pytest.approx(np.mean(repeated))


def test_one_class_has_no_auc():
    found = metrics.classification(np.eye(2)[[0, 0]], [0, 0], Bootstrap.of(None, 2))
    assert found["auc"].value is None
    assert found["auc"].note
    assert found["balanced_accuracy"].value == 1.0


def test_image_errors_agree_with_skimage(rng):
    truth = rng.random((3, 16, 16, 3)).astype(np.float32)
    guess = np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    found = metrics.image_errors(guess, truth)
    options = {
        "channel_axis": -1,
        "data_range": 1,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    for i in range(3):
        assert found["mse"][i] == pytest.approx(skimage.metrics.mean_squared_error(truth[i], guess[i]), rel=1e-5)
        assert found["psnr"][i] == pytest.approx(
            skimage.metrics.peak_signal_noise_ratio(truth[i], guess[i], data_range=1), rel=1e-4
        )
        # scikit-image pads and crops the same border that the valid convolution leaves out.
        assert found["ssim"][i] == pytest.approx(
            skimage.metrics.structural_similarity(truth[i], guess[i], **options), abs=2e-3
        )


def test_images_that_are_compared_in_parts_compare_the_same(rng, monkeypatch):
    truth = rng.random((5, 24, 24, 1)).astype(np.float32)
    guess = np.clip(truth + 0.5 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    whole = metrics.image_errors(guess, truth), metrics.retrieval(guess, truth)
    monkeypatch.setattr(metrics, "PART", 2)
    errors, found = metrics.image_errors(guess, truth), metrics.retrieval(guess, truth)
    assert set(errors) == {"mse", "psnr", "ssim", "ms_ssim"}
    for name, values in errors.items():
        np.testing.assert_allclose(values, whole[0][name], atol=1e-6)
    np.testing.assert_array_equal(found, whole[1])


def test_equal_images_have_capped_psnr():
    found = metrics.image_errors(np.ones((1, 4, 4, 1)), np.ones((1, 4, 4, 1)))
    assert found["psnr"][0] == metrics.PSNR_CAP
    assert "ssim" not in found


def test_retrieval(rng):
    truth = rng.random((50, 6))
    np.testing.assert_array_equal(metrics.retrieval(truth + 1e-3, truth), 1)
    np.testing.assert_array_equal(metrics.retrieval(truth[::-1], truth), 0)
    assert metrics.retrieval(np.full((50, 6), 0.5), truth).sum() == 1
    twins = np.concatenate([truth[:1], truth[:1]])
    np.testing.assert_array_equal(metrics.retrieval(twins, twins), 1)


def test_retrieval_is_of_originals(rng):
    """Drawings of an original are no rivals of each other, and of every other one the first alone is there to be found."""
    truth, group = rng.random((60, 6)), np.repeat(np.arange(20)[::-1], 3)
    guess = truth + 0.4 * rng.standard_normal(truth.shape)
    expected = []
    for row, own in zip(guess, range(60), strict=True):
        firsts = [np.flatnonzero(group == one)[0] for one in range(20) if one != group[own]]
        errors = [np.square(row - truth[other]).sum() for other in (own, *firsts)]
        expected.append(float(np.argmin(errors) == 0))
    np.testing.assert_array_equal(metrics.retrieval(guess, truth, group), expected)
    assert 0.2 < np.mean(expected) < 0.95
    near = np.repeat(rng.random((20, 1, 6)), 3, axis=1) + 1e-3 * rng.random((20, 3, 6))
    assert metrics.retrieval(near[:, ::-1].reshape(60, 6), near.reshape(60, 6), group).all()


def test_reconstruction_scores(rng):
    truth = rng.random((40, 16, 16, 1))
    mean = np.broadcast_to(truth.mean(0), truth.shape)
    floors = {"mean": metrics.image_errors(mean, truth)["mse"]}
    bootstrap = Bootstrap.of(None, 40)
    nothing, mse = metrics.reconstruction(mean, truth, floors, bootstrap)
    assert nothing["r2_mean"].value == pytest.approx(0, abs=1e-6)
    assert nothing["mse_worst"].value == pytest.approx(np.sort(mse)[:2].mean())
    everything, _ = metrics.reconstruction(truth, truth, floors, bootstrap)
    assert everything["r2_mean"].value == 1.0
    assert everything["retrieval"].value == 1.0
    assert metrics.r_squared([0.0], [0.0], Bootstrap.of(None, 1)).value is None


@pytest.mark.parametrize(("side", "scales"), [(21, 1), (22, 2), (32, 2), (48, 3)])
def test_ms_ssim_needs_two_scales_and_says_how_many(rng, side, scales):
    truth = rng.random((3, side, side, 1)).astype(np.float32)
    guess = np.clip(truth + 0.2 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32)
    found, _ = metrics.reconstruction(guess, truth, {}, Bootstrap.of(None, 3))
    if scales == 1:
        assert found["ms_ssim"].value is None
        assert found["ms_ssim"].note == "images under 22 pixels a side have one scale"
    else:
        assert found["ms_ssim"].value == pytest.approx(float(np.mean(ms_ssim(guess, truth))), rel=1e-5)
        assert 0 < found["ms_ssim"].value != found["ssim"].value
        assert found["ms_ssim"].note == f"over the {scales} scales that fit"


def by_hand(correct, group):
    """The best tenth by one half, on the other half, and the other way round; ties count in part."""
    own = [correct[group == g] for g in np.unique(group)]
    own = np.array([(c[::2].mean(), c[1::2].mean()) for c in own if len(c) > 1])
    told = []
    for chosen, score in ((own[:, 0], own[:, 1]), (own[:, 1], own[:, 0])):
        room, total = 0.1 * len(own), 0.0
        for level in sorted(set(chosen), reverse=True):
            tied = score[chosen == level]
            taken = min(max(room, 0), len(tied))
            total, room = total + taken * tied.mean(), room - taken
        told.append(total / (0.1 * len(own)))
    return np.mean(told)


def test_the_best_read_originals_are_not_the_luckiest(rng):
    group = rng.permutation(np.repeat(np.arange(400), 6))
    tossed = rng.random(len(group)) < 0.25
    size, found = metrics.best_read(tossed.astype(float), group, Bootstrap.of(group, len(group)))
    assert size == 400
    assert found.value == pytest.approx(by_hand(tossed, group))
    assert found.value == pytest.approx(0.25, abs=0.06)
    assert found.low < 0.25 < found.high
    # Chosen and scored on the same, that tenth would seem to be read.
    assert np.sort(np.bincount(group, tossed) / 6)[-40:].mean() > 0.55


def test_a_tenth_that_is_read_perfectly_is_found(rng):
    group = np.repeat(np.arange(200), 8)
    correct = (rng.random(len(group)) < np.where(group < 20, 1.0, 0.25)).astype(float)
    single = np.concatenate([group, 1000 + np.arange(50)])
    size, found = metrics.best_read(np.append(correct, np.ones(50)), single, Bootstrap.of(single, len(single)))
    assert size == 200
    assert found.value > 0.9
    assert correct.mean() < 0.4


@pytest.mark.parametrize("group", [None, np.arange(40), np.arange(40) % 9])
def test_without_ten_originals_that_were_drawn_twice_nobody_is_read_best(group):
    size, found = metrics.best_read(np.ones(40), group, Bootstrap.of(group, 40))
    assert found.value is None
    assert found.note == "needs ten originals that were drawn twice or more"
    assert size < 10


def test_a_part_has_the_resamples_of_the_whole(rng):
    values, rows = rng.random(60), rng.random(60) < 0.3
    whole = Bootstrap.of(np.arange(60) // 3, 60)
    found = whole.within(rows).mean(values[rows])
    expected = [np.average(values[rows], weights=w[rows]) for w in whole.weights if w[rows].any()]
    assert found.value == pytest.approx(expected[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected[1:], [0.025, 0.975])))


def test_what_was_measured_elsewhere_is_drawn_as_wide_as_its_interval():
    drawn = metrics.resampled(Estimate(0.7, 0.6, 0.8), 4001)
    assert drawn[0] == 0.7
    assert drawn[1:].mean() == pytest.approx(0.7, abs=0.005)
    assert drawn[1:].std() == pytest.approx(0.051, rel=0.05)
    assert set(metrics.resampled(Estimate(0.7), 5)) == {0.7}


def test_interval_covers_the_truth_about_as_often_as_it_says(rng):
    covered = 0
    for trial in range(200):
        values = np.repeat(rng.random(40) < 0.7, 4)  # Four copies of each original: only 40 independent observations.
        found = Bootstrap.of(np.repeat(np.arange(40), 4), 160, seed=trial, resamples=300).mean(values)
        covered += found.low <= 0.7 <= found.high
    assert 175 <= covered <= 199


def test_clustering_widens_the_interval():
    values = np.repeat(np.arange(40) % 2, 10)
    clustered = Bootstrap.of(np.repeat(np.arange(40), 10), 400).mean(values)
    naive = Bootstrap.of(None, 400).mean(values)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_bootstrap_is_deterministic():
    first, second = (Bootstrap.of(None, 20, seed=3).weights for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, Bootstrap.of(None, 20, seed=4).weights)
    np.testing.assert_array_equal(first.sum(1), 20)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Bootstrap.of([0, 1], 3),
        lambda: metrics.classification(np.zeros(3), [0, 0, 0], Bootstrap.of(None, 3)),
        lambda: metrics.classification(np.zeros((2, 2)), [0, 2], Bootstrap.of(None, 2)),
        lambda: metrics.image_errors(np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 3, 1))),
    ],
)
def test_refuses_wrong_shapes(call):
    with pytest.raises(ValueError, match="must be"):
        call()
