import dataclasses

from ani_jax.reporting import splits


def cuts(none, decoder):
    def cut(r2, macs):
        return dataclasses.replace(
            none, attacks=(none.attacks[0], decoder(0.01, r2)), cost=dataclasses.replace(none.cost, macs=macs)
        )

    return {"depth 1": cut(0.9, 1000), "depth 2": cut(0.7, 3000), "depth 3": cut(0.8, 4000)}


def test_a_line_a_cut(none, decoder):
    head, *lines = splits.table(cuts(none, decoder)).splitlines()
    for title in ("accuracy", "ink: balanced accuracy", "image: R² over class mean", "MACs", "bytes, 8 bits"):
        assert title in head
    assert lines[1].split() == ["depth", "2", "97.6%", "99.0%", "0.70", "3,000", "2,048"]
    assert len({len(line) for line in (lines[0], lines[1])}) == 1


def test_the_least_leaking_cut_and_what_it_costs(none, decoder):
    found = cuts(none, decoder)
    assert splits.advice(found) == (
        "depth 2 leaks least of the image (R² over class mean 0.70) at 3.0 times the MACs of depth 1 (0.90)."
    )
    cheapest = {"depth 2": found["depth 2"], "depth 3": found["depth 3"]}
    assert splits.advice(cheapest).endswith("and costs the device least.")


def test_what_was_not_measured_is_a_dash(none):
    bare = dataclasses.replace(none, attacks=(), cost=None, utility={})
    assert splits.table({"depth 1": bare}).splitlines()[1].split() == ["depth", "1", "–", "–", "–"]
    assert splits.advice({"depth 1": none, "depth 2": bare}) == ""
