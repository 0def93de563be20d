// The device's half of the wire in a browser: messages, noise, and what is sent of features. Nothing here touches the page.

const TYPES = {
  float32: Float32Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  int8: Int8Array,
};

/** A msgpack map of artefact, dtype, shape and data, as ani_jax/deploy/wire.py documents it. */
export function encode(artefact, dtype, shape, numbers) {
  const bytes = [];
  const text = (value) => {
    const utf8 = new TextEncoder().encode(value);
    bytes.push(0xd9, utf8.length, ...utf8);
  };
  const wide = (kind, value) => bytes.push(kind, value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
  bytes.push(0x84);
  text("artefact");
  text(artefact);
  text("dtype");
  text(dtype);
  text("shape");
  bytes.push(0x90 + shape.length);
  shape.forEach((size) => wide(0xce, size));
  text("data");
  wide(0xc6, numbers.byteLength);
  const message = new Uint8Array(bytes.length + numbers.byteLength);
  message.set(bytes);
  message.set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), bytes.length);
  return message;
}

/** What a message says: {artefact, dtype, shape, numbers}. Throws where it is none. */
export function decode(message) {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  let at = 0;
  const take = (count) => {
    at += count;
    return at - count;
  };
  const length = (bytes) => (bytes === 1 ? view.getUint8(take(1)) : bytes === 2 ? view.getUint16(take(2)) : view.getUint32(take(4)));
  const binary = (count) => message.slice(take(count), at);
  const string = (count) => new TextDecoder().decode(binary(count));
  const value = () => {
    const kind = view.getUint8(take(1));
    if (kind < 0x80) return kind;
    if (kind >= 0xa0 && kind < 0xc0) return string(kind - 0xa0);
    if (kind >= 0x90 && kind < 0xa0) return Array.from({ length: kind - 0x90 }, value);
    if (kind >= 0x80 && kind < 0x90) return Object.fromEntries(Array.from({ length: kind - 0x80 }, () => [value(), value()]));
    if (kind >= 0xcc && kind <= 0xce) return length(1 << (kind - 0xcc));
    if (kind >= 0xc4 && kind <= 0xc6) return binary(length(1 << (kind - 0xc4)));
    if (kind >= 0xd9 && kind <= 0xdb) return string(length(1 << (kind - 0xd9)));
    throw new Error(`the answer holds what no message holds (${kind})`);
  };
  const found = value();
  if (!(found.dtype in TYPES) || !(found.data instanceof Uint8Array)) throw new Error("the answer is no message");
  return { ...found, numbers: new TYPES[found.dtype](found.data.buffer) };
}

/** What is sent of features: themselves, or the codes of their grid, close together (artefact.py: Card.pack). */
export function pack(features, { low, high, levels, bits, dtype }) {
  if (!levels) return features;
  const step = (high - low) / (levels - 1);
  const codes = new TYPES[dtype](features.length);
  features.forEach((value, place) => {
    // Halves go to the even neighbour, as numpy has it.
    const code = Math.min(Math.max((value - low) / step, 0), levels - 1);
    const near = Math.round(code);
    codes[place] = near - code === 0.5 && near % 2 ? near - 1 : near;
  });
  if (bits >= 8) return codes;
  const packed = new Uint8Array(Math.ceil((codes.length * bits) / 8));
  codes.forEach((code, place) => {
    for (let bit = 0; bit < bits; bit += 1) {
      const to = place * bits + bit;
      packed[to >> 3] |= ((code >> (bits - 1 - bit)) & 1) << (7 - (to & 7));
    }
  });
  return packed;
}

/** Standard normal numbers of random words, as ani_jax/modules/pseudorandom.py makes them: none beyond 5.5. */
export function normal(words) {
  return Float32Array.from(words, (word) => Math.SQRT2 * inverseErf(2 * (((word >>> 8) + 0.5) / 2 ** 24) - 1));
}

/** Words of the browser's own randomness, new for every query. */
export function fresh(count) {
  const words = new Uint32Array(count);
  // A call gives 65,536 bytes at most.
  for (let at = 0; at < count; at += 16384) crypto.getRandomValues(words.subarray(at, at + 16384));
  return words;
}

/** Words that are a function of a secret and the image's pixels: SHA-256 of both is the key of a ChaCha20 stream. */
export async function memoised(secret, pixels, count) {
  const text = new Uint8Array(32 + 4 * Math.ceil(pixels.length / 4));
  const view = new DataView(text.buffer);
  secret.forEach((word, place) => view.setUint32(4 * place, word));
  text.set(pixels, 32);
  const hash = new DataView(await crypto.subtle.digest("SHA-256", text));
  const key = Array.from({ length: 8 }, (_, place) => hash.getUint32(4 * place));
  const words = new Uint32Array(Math.ceil(count / 16) * 16);
  for (let block = 0; 16 * block < count; block += 1) words.set(chacha20(key, block), 16 * block);
  return words.subarray(0, count);
}

/** One block of the ChaCha20 key stream with nonce 0 (RFC 8439). */
function chacha20(key, counter) {
  const start = Uint32Array.of(0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, ...key, counter, 0, 0, 0);
  const x = start.slice();
  const mix = (into, other, to, bits) => {
    x[into] += x[other];
    const changed = x[to] ^ x[into];
    x[to] = (changed << bits) | (changed >>> (32 - bits));
  };
  const quarter = (a, b, c, d) => {
    mix(a, b, d, 16);
    mix(c, d, b, 12);
    mix(a, b, d, 8);
    mix(c, d, b, 7);
  };
  for (let round = 0; round < 10; round += 1) {
    for (let i = 0; i < 4; i += 1) quarter(i, 4 + i, 8 + i, 12 + i);
    for (let i = 0; i < 4; i += 1) quarter(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4));
  }
  return x.map((word, place) => word + start[place]);
}

/** The inverse of the error function: Giles's polynomials (2010), which single precision is computed with elsewhere too. */
function inverseErf(x) {
  const w = -Math.log1p(-x * x);
  const near = [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 2.1858087e-4, -1.25372503e-3, -4.17768164e-3, 2.46640727e-1, 1.50140941];
  const far = [-2.00214257e-4, 1.00950558e-4, 1.34934322e-3, -3.67342844e-3, 5.73950773e-3, -7.6224613e-3, 9.43887047e-3, 1.00167406, 2.83297682];
  const [terms, at] = w < 5 ? [near, w - 2.5] : [far, Math.sqrt(w) - 3];
  return x * terms.reduce((sum, term) => sum * at + term, 0);
}
