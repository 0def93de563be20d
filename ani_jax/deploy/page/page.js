// The page: a picture to draw or choose, and for each client what it sends, what is answered, and what an attacker makes of it.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { decode, encode, fresh, memoised, normal, pack } from "./split.js";

// One thread: others would need shared memory, and the clients are small.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;

const SHOWN = 3;
const element = (id) => document.getElementById(id);
const pad = element("pad");
const pen = pad.getContext("2d", { willReadFrequently: true });
const status = element("status");
const state = { sides: [], chosen: null, turn: 0, last: Promise.resolve(), at: [128, 128], down: false };

const say = (text, bad = false) => {
  status.textContent = text;
  status.classList.toggle("bad", bad);
};

/** Puts pixels in [0, 1], of 1 or 3 channels, onto a canvas of just their size. */
function paint(canvas, [height, width, channels], numbers) {
  const picture = new ImageData(width, height);
  for (let place = 0; place < height * width; place += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      picture.data[4 * place + channel] = Math.round(255 * numbers[channels * place + (channels === 3 ? channel : 0)]);
    }
    picture.data[4 * place + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Features as one grey picture: maps side by side, a vector as a square; the least is black, the most white. */
function tiles(canvas, shape, features) {
  const [height, width, maps] = shape.length === 3 ? shape : [1, 1, features.length];
  const across = Math.ceil(Math.sqrt(maps));
  const gap = height * width > 1 ? 1 : 0;
  const size = [Math.ceil(maps / across) * (height + gap) - gap, across * (width + gap) - gap, 1];
  let least = Infinity;
  let most = -Infinity;
  features.forEach((value) => {
    least = Math.min(least, value);
    most = Math.max(most, value);
  });
  const grey = new Float32Array(size[0] * size[1]).fill(0.5);
  features.forEach((value, place) => {
    const map = place % maps;
    const [row, column] = [Math.floor(place / maps / width), Math.floor(place / maps) % width];
    const [down, right] = [Math.floor(map / across) * (height + gap) + row, (map % across) * (width + gap) + column];
    grey[down * size[1] + right] = (value - least) / (most - least || 1);
  });
  paint(canvas, size, grey);
}

/** The 8-bit pixels of one picture of a stack. */
function picture({ shape, pixels }, place) {
  const size = shape[1] * shape[2] * shape[3];
  const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
  return Float32Array.from(bytes.subarray(place * size, (place + 1) * size), (value) => value / 255);
}

/** What is on the pad, as the clients take it: numbers in [0, 1] of just that size. */
function onPad([height, width, channels]) {
  const small = document.createElement("canvas");
  small.width = width;
  small.height = height;
  const context = small.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(pad, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  const numbers = new Float32Array(height * width * channels);
  for (let place = 0; place < height * width; place += 1) {
    const [red, green, blue] = [0, 1, 2].map((channel) => data[4 * place + channel] / 255);
    if (channels === 3) numbers.set([red, green, blue], 3 * place);
    else numbers[place] = 0.299 * red + 0.587 * green + 0.114 * blue;
  }
  return numbers;
}

/** This device's secret for one client: made once, kept here, sent to nobody. */
async function secret(artefact) {
  const name = "ani_jax secret";
  if (!localStorage.getItem(name)) localStorage.setItem(name, Array.from(fresh(8)).join(" "));
  const text = new TextEncoder().encode(`${localStorage.getItem(name)} ${artefact}`);
  const hash = new DataView(await crypto.subtle.digest("SHA-256", text));
  return Uint32Array.from({ length: 8 }, (_, place) => hash.getUint32(4 * place));
}

/** The features that one client makes of a picture, noise included. */
async function features(side, image) {
  const shape = [1, ...side.image_shape];
  const [images, noise] = side.session.inputNames;
  const feeds = { [images]: new ort.Tensor("float32", image, shape) };
  if (noise) {
    const count = side.feature_shape.reduce((a, b) => a * b, 1);
    const pixels = Uint8Array.from(image, (value) => Math.round(255 * value));
    const words = side.noise === "memoised" ? await memoised(await secret(side.artefact), pixels, count) : fresh(count);
    feeds[noise] = new ort.Tensor("float32", normal(words), [1, ...side.feature_shape]);
  }
  const found = await side.session.run(feeds);
  return found[side.session.outputNames[0]].data;
}

/** Sends one message and returns the numbers of the answer. */
async function ask(artefact, side, z) {
  const response = await fetch("v1/infer", {
    method: "POST",
    headers: { "content-type": "application/msgpack" },
    body: encode(artefact, side.dtype, [1, ...side.shape], z),
  });
  if (!response.ok) throw new Error((await response.json()).error);
  return decode(new Uint8Array(await response.arrayBuffer())).numbers;
}

/** The likeliest classes with their probabilities. */
function likeliest(logits, classes) {
  const most = Math.max(...logits);
  const shares = Array.from(logits, (value) => Math.exp(value - most));
  const sum = shares.reduce((a, b) => a + b, 0);
  return shares.map((share, place) => [classes[place] ?? `class ${place}`, share / sum]).sort((a, b) => b[1] - a[1]);
}

function showAnswers(side, answers) {
  side.view.querySelector(".answers").replaceChildren(
    ...answers.slice(0, SHOWN).map(([name, share]) => {
      const item = document.createElement("li");
      const [label, percent] = [document.createElement("span"), document.createElement("span")];
      const bar = document.createElement("meter");
      label.textContent = name;
      percent.textContent = `${(100 * share).toFixed(1)}%`;
      bar.value = share;
      bar.setAttribute("aria-label", `probability of ${name}`);
      item.append(label, bar, percent);
      return item;
    }),
  );
}

/** What the attacker makes of what was sent: asked, where it can be; else what the audit kept of this very picture. */
async function showGuess(side, z) {
  const [canvas, note] = [side.view.querySelector(".guess"), side.view.querySelector(".guess-note")];
  const { gallery } = side;
  let guess = null;
  if (side.attacker) {
    guess = await ask(side.attacker, side, z);
    note.textContent = `The attacker (${side.attack}) was given what was sent, and nothing else.`;
  } else if (gallery.missing) {
    note.textContent = gallery.missing;
  } else if (state.chosen === null || state.chosen.of !== gallery.originals.pixels) {
    note.textContent = "This export carries the attacker's reconstructions of the audit's test images, not the attacker: choose one of them.";
  } else {
    guess = picture(gallery.reconstructions, state.chosen.place);
    note.textContent = gallery.note;
  }
  canvas.hidden = guess === null;
  if (guess !== null) {
    paint(canvas, side.image_shape, guess);
    canvas.setAttribute("aria-label", `The attacker's reconstruction from what ${side.defence} sends`);
  }
}

/** Everything again for the picture that is there now: one picture after another, and of those that wait the last. */
function update() {
  state.turn += 1;
  const { turn } = state;
  document.body.dataset.turn = turn;
  state.last = state.last.then(async () => {
    if (turn === state.turn) await show();
    document.body.dataset.shown = turn;
  });
  return state.last;
}

async function show() {
  const heard = [];
  let bytes = 0;
  try {
    for (const side of state.sides) {
      const image = state.chosen?.numbers ?? onPad(side.image_shape);
      const found = await features(side, image);
      const z = pack(found, side);
      const logits = await ask(side.artefact, side, z);
      tiles(side.view.querySelector(".sent"), side.feature_shape, found);
      const answers = likeliest(logits, side.classes);
      showAnswers(side, answers);
      await showGuess(side, z);
      bytes += side.bytes;
      heard.push(`${side.defence}: ${answers[0][0]} (${(100 * answers[0][1]).toFixed(0)}%)`);
    }
    say(`Sent: ${bytes.toLocaleString("en")} bytes of features; the picture stayed here. ${heard.join("; ")}.`);
  } catch (error) {
    say(`It failed: ${error.message}`, true);
  }
}

function blank() {
  state.chosen = null;
  document.querySelectorAll("#thumbnails input:checked").forEach((one) => {
    one.checked = false;
  });
  pen.fillStyle = element("paper").value;
  pen.fillRect(0, 0, pad.width, pad.height);
}

function stroke(from, to) {
  state.chosen = null;
  document.querySelectorAll("#thumbnails input:checked").forEach((one) => {
    one.checked = false;
  });
  pen.strokeStyle = element("ink").value;
  pen.lineWidth = pad.width / 10;
  pen.lineCap = "round";
  pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

const where = (event) => {
  const box = pad.getBoundingClientRect();
  return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
};

pad.addEventListener("pointerdown", (event) => {
  pad.setPointerCapture(event.pointerId);
  state.at = where(event);
  stroke(state.at, state.at);
});
pad.addEventListener("pointermove", (event) => {
  if (!pad.hasPointerCapture(event.pointerId)) return;
  stroke(state.at, where(event));
  state.at = where(event);
});
pad.addEventListener("pointerup", update);
pad.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] }[event.key];
  if (!step && event.key !== " ") return;
  event.preventDefault();
  if (!step) {
    state.down = !state.down;
    say(state.down ? "The pen is down." : "The pen is up.");
    if (state.down) stroke(state.at, state.at);
    else update();
    return;
  }
  const to = state.at.map((value, axis) => Math.min(Math.max(value + step[axis], 0), pad.width));
  if (state.down) stroke(state.at, to);
  state.at = to;
});
pad.addEventListener("blur", () => {
  if (state.down) update();
  state.down = false;
});
element("clear").addEventListener("click", () => {
  blank();
  update();
});
element("again").addEventListener("click", update);
element("paper").addEventListener("change", () => {
  blank();
  update();
});
element("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file);
    blank();
    // The whole picture, on paper where it is no square.
    const scale = Math.min(pad.width / bitmap.width, pad.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    pen.drawImage(bitmap, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
    update();
  } catch {
    say(`${file.name} is no picture that this browser can read.`, true);
  }
});

/** The audit's test images, to choose one of. */
function thumbnails({ originals }) {
  element("choices").hidden = false;
  element("thumbnails").replaceChildren(
    ...Array.from({ length: originals.shape[0] }, (_, place) => {
      const [label, radio, canvas] = ["label", "input", "canvas"].map((name) => document.createElement(name));
      const numbers = picture(originals, place);
      radio.type = "radio";
      radio.name = "choice";
      radio.setAttribute("aria-label", `Test image ${place + 1}`);
      canvas.setAttribute("aria-hidden", "true");
      radio.addEventListener("change", () => {
        paint(canvas, originals.shape.slice(1), numbers);
        pen.imageSmoothingEnabled = false;
        pen.drawImage(canvas, 0, 0, pad.width, pad.height);
        state.chosen = { place, numbers, of: originals.pixels };
        update();
      });
      paint(canvas, originals.shape.slice(1), numbers);
      label.append(radio, canvas);
      return label;
    }),
  );
}

async function start() {
  const { sides } = await (await fetch("page.json")).json();
  const [, , channels] = sides[0].image_shape;
  // As the embedded digits are drawn; grey sets have light strokes on dark ground.
  [element("ink").value, element("paper").value] = channels === 3 ? ["#141fb8", "#fff5b8"] : ["#ffffff", "#000000"];
  for (const side of sides) {
    side.session = await ort.InferenceSession.create(`client/${side.artefact}.onnx`, { executionProviders: ["wasm"] });
    side.view = element("side").content.firstElementChild.cloneNode(true);
    side.view.querySelector("h2").textContent = side.defence;
    const noise = { none: "no noise", fresh: "noise new for every query", memoised: "noise that this device keeps for each picture" };
    const right = side.accuracy === null ? "" : `; ${(100 * side.accuracy).toFixed(1)}% of test images answered rightly`;
    side.view.querySelector(".about").textContent = `${noise[side.noise]}${right}`;
    side.view.querySelector(".sent").setAttribute("aria-label", `What ${side.defence} sends, as grey squares`);
    const raw = side.image_shape.reduce((a, b) => a * b, 1);
    side.view.querySelector(".sent-note").textContent =
      `${side.bytes.toLocaleString("en")} bytes; the picture itself would be ${raw.toLocaleString("en")}.`;
    element("sides").append(side.view);
  }
  state.sides = sides;
  const shown = sides.find((side) => side.gallery.originals);
  if (shown) thumbnails(shown.gallery);
  blank();
  const first = document.querySelector("#thumbnails input");
  if (first) first.click();
  else await update();
}

start().catch((error) => say(`The clients did not load: ${error.message}`, true));
