"""The page: in a headless Chromium it works, asks nobody else, and no request holds the picture; without its parts it says so."""

import base64
import json
import time

import httpx
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ani_jax.deploy import demo, service, wire
from ani_jax.modules.pseudorandom import normal
from tests.deploy import browser
from tests.deploy.conftest import loopback


class Kept:
    """An application that keeps every body that was sent to it."""

    def __init__(self, app):
        self.app, self.bodies = app, []

    async def __call__(self, scope, receive, send):
        async def kept():
            message = await receive()
            if message["type"] == "http.request" and message.get("body"):
                self.bodies.append(message["body"])
            return message

        await self.app(scope, kept if scope["type"] == "http" else receive, send)


def invert(z):
    """An attacker that is asked: a row of pixels for each row of z."""
    return 1 - np.repeat(np.repeat(z, 2, 1), 2, 2).reshape(len(z), -1)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page of three clients, what was sent to it, and a browser that shows it."""
    driver = browser.chromium()
    folder = tmp_path_factory.mktemp("page")
    sides = [
        browser.side(folder / "none"),
        browser.side(folder / "fresh", "fresh", "fresh", gallery=False, accuracy=None),
        browser.side(folder / "memoised", "memoised", "memoised", gallery=False, attacker="ridge of level preview"),
    ]
    sides[2] = demo.dataclasses.replace(sides[2], attacker=True)
    models = [*(service.Model(side.spec, browser.network) for side in sides), service.Model(sides[2].asked, invert)]
    app = Kept(service.application(models, pages=demo.routes(sides)))
    try:
        with loopback(app) as url:
            driver.get(url)
            yield Page(driver, url, app.bodies)
    finally:
        driver.quit()


class Page:
    def __init__(self, driver, url, bodies):
        self.driver, self.url, self.bodies, self.requests = driver, url, bodies, []
        self.settled()

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def turns(self):
        """How many pictures were to be shown so far, and how many of these were."""
        return self.driver.execute_script(
            "const {turn, shown} = document.body.dataset; return [turn ?? 0, shown ?? 0].map(Number)"
        )

    def settled(self, after=0):
        """Waits for whatever is to be shown after so many pictures."""
        for _ in range(600):
            turn, shown = self.turns()
            said = self.find("#status").text
            if (turn > after and shown == turn) or said.startswith("The clients did not"):
                break
            time.sleep(0.05)
        assert said.startswith("Sent"), said

    def asked(self, act):
        """The messages that something causes to be sent, by artefact."""
        before, (after, _) = len(self.bodies), self.turns()
        act()
        self.settled(after)
        return dict(wire.decode(body) for body in self.bodies[before:])

    def log(self):
        """Every request of the browser so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"])
        return self.requests

    def pixels(self):
        """What is on the pad, at the clients' size, as bytes."""
        script = f"""
          const small = document.createElement("canvas");
          small.width = small.height = {browser.SIDE};
          const context = small.getContext("2d");
          context.imageSmoothingQuality = "high";
          context.drawImage(document.getElementById("pad"), 0, 0, {browser.SIDE}, {browser.SIDE});
          return Array.from(context.getImageData(0, 0, {browser.SIDE}, {browser.SIDE}).data);
        """
        found = np.array(self.driver.execute_script(script), np.uint8)
        return found.reshape(browser.SIDE, browser.SIDE, 4)[..., :3]


def test_what_is_sent_is_what_the_client_makes_of_the_picture(page):
    sent = page.asked(lambda: page.all("#thumbnails input")[1].click())
    assert list(sent) == ["none-pair", "fresh-pair", "memoised-pair", "memoised-pair-attacker"]
    originals = np.random.default_rng(0).random((3, browser.SIDE, browser.SIDE, 3))
    chosen = np.round(originals[1] * 255)[::2, ::2] / 255 / 2
    np.testing.assert_allclose(sent["none-pair"][0], chosen, atol=1e-6)
    np.testing.assert_array_equal(sent["memoised-pair"], sent["memoised-pair-attacker"])
    logits = browser.network(sent["none-pair"])[0]
    shares = np.exp(logits) / np.exp(logits).sum()
    first = page.find(".side .answers li").text.split()
    assert first == [browser.CARD["classes"][shares.argmax()], f"{100 * shares.max():.1f}%"]


def test_fresh_noise_is_new_for_every_query_and_a_device_that_remembers_says_the_same_again(page):
    first, second = (page.asked(page.find("#again").click) for _ in range(2))
    np.testing.assert_array_equal(first["none-pair"], second["none-pair"])
    np.testing.assert_array_equal(first["memoised-pair"], second["memoised-pair"])
    assert (first["fresh-pair"] != second["fresh-pair"]).all()
    noise = {name: first[name] - first["none-pair"] for name in ("fresh-pair", "memoised-pair")}
    for one in noise.values():
        assert 0.5 < one.std() < 1.6
    other = page.asked(page.all("#thumbnails input")[2].click)
    assert (other["memoised-pair"] - other["none-pair"] != noise["memoised-pair"]).all()


def test_memoised_noise_is_the_librarys(page):
    """SHA-256, ChaCha20 and the normal quantile in the browser, against the ones that a defence is trained with."""
    secret, pixels = np.arange(8, dtype=np.uint32) * 99_991 + 7, np.arange(75, dtype=np.uint8)
    script = """
      const [secret, pixels, done] = arguments;
      import("./split.js").then(async (split) => {
        const words = await split.memoised(Uint32Array.from(secret), Uint8Array.from(pixels), 500);
        done(Array.from(split.normal(words)));
      });
    """
    found = page.driver.execute_async_script(script, secret.tolist(), pixels.tolist())
    expected = normal(jnp.asarray(secret), jnp.asarray(pixels.reshape(1, 5, 5, 3) / np.float32(255)), 500)[0]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_fresh_noise_is_normal(page):
    script = """
      const done = arguments[0];
      import("./split.js").then((split) => done(Array.from(split.normal(split.fresh(40000)))));
    """
    found = np.array(page.driver.execute_async_script(script))
    assert abs(found.mean()) < 0.03
    assert abs(found.std() - 1) < 0.02
    assert abs((found**4).mean() - 3) < 0.3
    assert len(np.unique(found)) > 39_000


@pytest.mark.parametrize(("bits", "levels"), [(1, 2), (2, 3), (3, 8), (8, 256), (10, 1000)])
def test_codes_are_packed_as_the_library_packs_them(page, bits, levels):
    artefact = pytest.importorskip("ani_jax.deploy.artefact")
    features = np.random.default_rng(0).normal(size=(1, 37)).astype(np.float32)
    dtype = "uint16" if bits > 8 else "uint8"
    card = artefact.Card("x", "x", (), (1, 1, 1), (37,), (37,), dtype, low=-1.5, high=1.5, levels=levels, bits=bits)
    script = """
      const [features, card, done] = arguments;
      import("./split.js").then((split) => done(Array.from(split.pack(Float32Array.from(features), card))));
    """
    told = {"low": -1.5, "high": 1.5, "levels": levels, "bits": bits, "dtype": dtype}
    found = page.driver.execute_async_script(script, features[0].tolist(), told)
    np.testing.assert_array_equal(found, card.pack(features)[0])


def test_nothing_goes_elsewhere_and_the_picture_nowhere(page, tmp_path):
    """A picture of random pixels, of which any eight bytes would be recognised, on disk and pad, and four of its floats."""
    pixels = np.random.default_rng(1).integers(0, 256, (browser.SIDE, browser.SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    sent = page.asked(lambda: page.find("#file").send_keys(str(tmp_path / "own.png")))
    on_pad = page.pixels()
    # It did arrive where it stays.
    np.testing.assert_allclose(sent["none-pair"][0], on_pad[::2, ::2] / 255 / 2, atol=1e-6)
    requests = page.log()
    assert len(requests) > 15
    assert [one["url"] for one in requests if not one["url"].startswith((page.url, "data:,"))] == []
    logged = [
        base64.b64decode(entry["bytes"])
        for one in requests
        for entry in one.get("postDataEntries", [])
        if "bytes" in entry
    ]
    assert len(logged) == len(page.bodies)
    # Of floats, of which there are no more than there are bytes, four.
    forms = {
        8: (pixels.tobytes(), on_pad.tobytes(), (tmp_path / "own.png").read_bytes()),
        16: ((on_pad / np.float32(255)).tobytes(),),
    }
    for size, known in forms.items():
        windows = {form[at : at + size] for form in known for at in range(len(form) - size + 1)}
        assert len(windows) > 150
        for body in (*logged, *page.bodies, *(one["url"].encode() for one in requests)):
            assert {body[at : at + size] for at in range(len(body) - size + 1)} & windows == set()
    for one in requests:
        assert all(len(str(value)) < 200 for value in one["headers"].values())


def test_a_digit_is_drawn_with_pointer_and_with_keys(page):
    keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
    actions = pytest.importorskip("selenium.webdriver").ActionChains
    page.asked(page.find("#clear").click)
    empty = page.pixels()
    pad = page.find("#pad")

    def draw():
        actions(page.driver).move_to_element_with_offset(pad, -40, -40).click_and_hold().move_by_offset(
            80, 80
        ).release().perform()

    sent = page.asked(draw)
    drawn = page.pixels()
    assert (drawn != empty).any()
    np.testing.assert_allclose(sent["none-pair"][0], drawn[::2, ::2] / 255 / 2, atol=1e-6)

    def write():
        pad.send_keys(keys.SPACE, *[keys.ARROW_RIGHT] * 6, *[keys.ARROW_UP] * 4, keys.SPACE)

    page.asked(page.find("#clear").click)
    page.asked(write)
    assert (page.pixels() != empty).any()


def test_the_attacker_is_shown_where_it_can_be(page):
    page.asked(page.all("#thumbnails input")[0].click)
    none, fresh, memoised = (one.text for one in page.all(".guess-note"))
    # Of two attacks that the audit shows, the stronger one.
    assert none == "From the audit's preview level, which is no evidence: decoder, MSE 0.1 on all test images."
    assert fresh == "This export holds no evidence.json: what attackers make of its client is in the report of its run."
    assert memoised == "The attacker (ridge of level preview) was given what was sent, and nothing else."
    assert [one.is_displayed() for one in page.all(".guess")] == [True, False, True]
    page.asked(page.find("#clear").click)
    assert "choose one of them" in page.find(".guess-note").text
    assert [one.is_displayed() for one in page.all(".guess")] == [False, False, True]


def test_everything_has_a_name_and_a_place(page):
    controls = page.all("button, input, canvas:not([aria-hidden]), meter, fieldset")
    assert len(controls) > 12
    assert [one.get_attribute("outerHTML") for one in controls if one.is_displayed() and not one.accessible_name] == []
    assert [one.text for one in page.all("h1, h2")] == [
        "What leaves the device",
        "The picture",
        "none",
        "fresh",
        "memoised",
    ]
    for width in (360, 700, 1400):
        page.driver.set_window_size(width, 900)
        scrolled = page.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert scrolled <= 0, width
    page.driver.set_window_size(1200, 1000)


def test_it_is_readable_by_day_and_by_night(page):
    def contrast():
        script = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        colours = [[int(part) for part in one[4:-1].split(",")] for one in page.driver.execute_script(script)]
        light = [
            sum(weight * (value / 255) ** 2.2 for weight, value in zip((0.2126, 0.7152, 0.0722), one))
            for one in colours
        ]
        return (max(light) + 0.05) / (min(light) + 0.05), light[1]

    grounds = {}
    for scheme in ("light", "dark"):
        page.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        found, grounds[scheme] = contrast()
        assert found > 7
    assert grounds["light"] > 0.9 > 0.1 > grounds["dark"]


def test_the_console_is_silent(page):
    """In the end, after everything else that was done to the page."""
    assert page.driver.get_log("browser") == []


def test_every_page_has_its_policy(tmp_path, monkeypatch):
    for name in demo.PARTS:
        (tmp_path / name).write_text("the runtime")
    monkeypatch.setattr(demo, "RUNTIME", tmp_path)
    side = browser.side(tmp_path / "none")
    app = service.application([service.Model(side.spec, browser.network)], pages=demo.routes([side]))
    with loopback(app) as url, httpx.Client(trust_env=False) as client:
        for path in (*demo.PAGES, "/page.json", f"/runtime/{demo.PARTS[0]}", "/client/none-pair.onnx"):
            found = client.get(url + path)
            assert found.status_code == 200
            policy = found.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe-inline" not in policy
            assert found.headers["x-content-type-options"] == "nosniff"
        assert client.get(f"{url}/runtime/{demo.PARTS[2]}").headers["content-type"] == "application/wasm"
        for path in ("/package.json", "/runtime/../package.json", "/client/../../none/client.onnx", "/node_modules/"):
            assert client.get(url + path).status_code == 404


def test_refuses_what_cannot_be_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "RUNTIME", tmp_path)
    side = browser.side(tmp_path / "none")
    with pytest.raises(
        ValueError, match=r"demo=True: ort.wasm.min.mjs is missing; npm ci --ignore-scripts --prefix .*page"
    ):
        demo.routes([side])
    for name in demo.PARTS:
        (tmp_path / name).write_text("the runtime")
    demo.routes([side])
    other = browser.side(tmp_path / "other", image_shape=[4, 4, 3])
    with pytest.raises(ValueError, match="must be the same for all artefacts"):
        demo.routes([side, other])
    (tmp_path / "none" / demo.CLIENT).unlink()
    with pytest.raises(ValueError, match=r"demo=True: .*none holds no client.onnx"):
        demo.routes([side])


def test_an_audit_without_pictures_is_said_to_have_none(tmp_path):
    originals = np.zeros((1, 2, 2, 3))
    whole = browser.evidence(originals, originals)
    assert demo.strongest(whole).attack == "decoder"
    bare = demo.dataclasses.replace(whole, attacks=())
    (tmp_path / demo.EVIDENCE).write_text(browser.to_json(bare))
    assert demo.gallery(tmp_path) == {"missing": "The audit of this client kept no reconstructions."}
    (tmp_path / demo.EVIDENCE).write_text("{}")
    assert demo.gallery(tmp_path)["missing"].startswith("This export holds no evidence.json")
