// One uncompressed DICOM radiograph as it is meant to be seen: the arithmetic of cxr_data/images/dicom.py.
// Only the tags that decide the pixels are kept; no name or number of a patient is read.

const IMPLICIT = "1.2.840.10008.1.2", EXPLICIT = "1.2.840.10008.1.2.1";
const LONG = new Set(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"]);
const WANTED = new Set([
  0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103,
  0x00280120, 0x00280121, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056, 0x00283000, 0x00283010, 0x00185101,
  0x20500010, 0x20500020, 0x52009229, 0x52009230, 0x7fe00010,
]);
const PIXELS = 0x7fe00010, MARK = 0x49444d43, END = 0xffffffff;
const LEAST_SHOWN = 0.005, LEAST_SHADES = 0.08; // as in dicom.py

export function isDicom(bytes) {
  return bytes.length > 132 && String.fromCharCode(...bytes.subarray(128, 132)) === "DICM";
}

/** {image: {data: Float32Array in [0, 1], width, height, top: 1}, lateral}; throws an Error that says what is wrong. */
export function readDicom(bytes, window) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tags = new Map();
  let syntax = null, at = 132, pixels = null;
  const text = (start, length) => String.fromCharCode(...bytes.subarray(start, start + length)).replace(/[\0 ]+$/, "").trim();
  while (at + 8 <= bytes.length) {
    const group = view.getUint16(at, true), tag = group * 0x10000 + view.getUint16(at + 2, true);
    const explicit = group === 2 || syntax !== IMPLICIT;
    if (group > 2 && syntax === null) throw new Error("a DICOM file that names no transfer syntax, which this page does not read");
    if (group === 0xffff) break; // bytes of ones after the data set
    let length, start;
    if (group === 0xfffe || !explicit) {
      [length, start] = [view.getUint32(at + 4, true), at + 8];
    } else if (LONG.has(text(at + 4, 2))) {
      [length, start] = [view.getUint32(at + 8, true), at + 12];
    } else {
      [length, start] = [view.getUint16(at + 6, true), at + 8];
    }
    if (tag === 0x00020010) {
      syntax = text(start, length);
      if (syntax !== IMPLICIT && syntax !== EXPLICIT) throw new Error("a compressed or big-endian DICOM file, which this page does not read");
    }
    if (tag === PIXELS) {
      if (length === END) throw new Error("a compressed DICOM file, which this page does not read");
      pixels = bytes.slice(start, start + length);
    }
    if (tags.has(tag) || tag === MARK) throw new Error("a DICOM file of two data sets, or one that says something twice");
    if (length === END) {
      at = skipSequence(view, start, explicit, text);
      if (WANTED.has(tag)) tags.set(tag, null);
      continue;
    }
    if (WANTED.has(tag)) tags.set(tag, length > 0 ? { start, length, vr: explicit ? text(at + 4, 2) : "" } : null);
    at = start + length;
  }
  if (!pixels) throw new Error("a DICOM file without an image");
  const number = (tag) => (tags.get(tag) ? view.getUint16(tags.get(tag).start, true) : undefined);
  const string = (tag) => (tags.get(tag) ? text(tags.get(tag).start, tags.get(tag).length) : "");
  const decimals = (tag) => string(tag).split("\\").map((one) => (one.trim() ? Number(one) : undefined));
  const decimal = (tag) => decimals(tag)[0];
  if ([0x00281052, 0x00281053].some((tag) => Number.isNaN(decimal(tag)))) throw new Error("a damaged DICOM file");
  if (tags.has(0x52009229) || tags.has(0x52009230)) throw new Error("an enhanced DICOM file, which this page does not read");
  if ((number(0x00280002) ?? 1) !== 1 || [0x00283000, 0x00283010, 0x20500010].some((tag) => tags.has(tag)) || parseInt(string(0x00280008) || "1", 10) > 1) {
    throw new Error("a DICOM file with colour, several frames or lookup tables, which this page does not read");
  }
  const width = number(0x00280011), height = number(0x00280010), allocated = number(0x00280100);
  const stored = number(0x00280101) ?? allocated, signed = number(0x00280103) === 1;
  const Kind = { 8: signed ? Int8Array : Uint8Array, 16: signed ? Int16Array : Uint16Array }[allocated];
  const size = (width * height * allocated) / 8, rest = pixels?.subarray(size);
  if (!Kind || !width || !height || stored > allocated || pixels.length < size) throw new Error("a damaged DICOM file");
  if (rest.length >= size || rest.some((value) => value !== rest[0])) {
    throw new Error("a DICOM file with more pixels than one frame of its size has");
  }
  if ((number(0x00280102) ?? stored - 1) !== stored - 1) throw new Error("a DICOM file whose HighBit is unusual, which this page does not read");
  const kind = string(0x00280004).toUpperCase();
  if (!["MONOCHROME1", "MONOCHROME2"].includes(kind) || (kind === "MONOCHROME2" && string(0x20500020) === "INVERSE")) {
    throw new Error("a DICOM file that does not say, or not without contradiction, whether air is dark");
  }
  const held = new Kind(pixels.buffer, 0, width * height);
  checkOrder(held, width, height);
  const outside = paddingOf(tags, view, held, signed, allocated);
  // Bits above the stored ones hold nothing or repeat the sign; a shift up and down clears them and extends the sign.
  const unused = 32 - stored;
  const clear = signed ? (value) => (value << unused) >> unused : (value) => (value << unused) >>> unused;
  const raw = held.map(clear), above = ((2 ** allocated - 1) << stored) & (2 ** allocated - 1);
  if (held.some((value, i) => value !== raw[i] && value & above && !outside?.[i])) {
    throw new Error(`a DICOM file with values of more than its ${stored} bits, or an overlay in them, which this page does not read`);
  }
  const slope = decimal(0x00281053) || 1, intercept = decimal(0x00281052) || 0;
  let [low, high] = ends(signed, stored).map((end) => end * slope + intercept).sort((a, b) => a - b);
  checkSign(raw, width, stored);
  const values = Float64Array.from(raw, (value) => value * slope + intercept);
  const padding = outside ?? paddingOf(tags, view, raw, signed, allocated, ends(signed, stored));
  const spans = decimals(0x00281051), windows = decimals(0x00281050).map((one, i) => [one, spans[i]]);
  const [centre, span] = windows.find(([one, other]) => other > 0 && Number.isFinite(one + other)) ?? [];
  let show = (value) => (value - low) / Math.max(high - low, 1e-12);
  if (window === "voi" && centre !== undefined && span > 0) {
    const rule = string(0x00281056).toUpperCase() || "LINEAR";
    if (rule === "SIGMOID") show = (value) => 1 / (1 + Math.exp((-4 / span) * (value - centre)));
    else if (rule === "LINEAR_EXACT") show = (value) => (value - centre) / span + 0.5;
    else if (rule !== "LINEAR") throw new Error("a DICOM file with a window of a kind that is not read");
    else show = (value) => (value - centre + 0.5) / Math.max(span - 1, 1e-6) + 0.5;
    refuseBlind(values, padding, rule, centre, span);
  } else if (window === "voi" && stored > 8) {
    [low, high] = [Infinity, -Infinity];
    values.forEach((value, i) => {
      if (!padding?.[i]) [low, high] = [Math.min(low, value), Math.max(high, value)];
    });
  }
  const inverted = kind === "MONOCHROME1";
  const data = Float32Array.from(values, (value, i) => {
    const shown = Math.min(1, Math.max(0, show(value)));
    return padding?.[i] ? 0 : inverted ? 1 - shown : shown;
  });
  return { image: { data, width, height, top: 1 }, lateral: ["LL", "RL", "LATERAL", "LAT"].includes(string(0x00185101).toUpperCase()) };
}

/** Refuses pixels that another order of the same bytes makes far smoother; the rules of cxr_data/images/readings.py. */
function checkOrder(values, width, height) {
  const claimed = steps(values, width), what = "a DICOM file whose pixels contradict what its header says of";
  if (height !== width && steps(values, height) < 0.5 * claimed) throw new Error(`${what} Rows and Columns`);
  const last = values.length < 48 ** 2 ? 0 : Math.sqrt(4 * values.length); // few pixels may be of any pattern
  for (let other = Math.floor(Math.sqrt(values.length / 4)); other <= last; other++) {
    const limit = width % other === 0 ? 0.8 : 0.5;
    if (values.length % other || other === width || (limit === 0.5 && claimed <= 0.3)) continue;
    if (steps(values, other) < limit * claimed) throw new Error(`${what} Rows and Columns`);
  }
  if (values.BYTES_PER_ELEMENT === 2) {
    const swapped = values.map((value) => ((value & 255) << 8) | ((value >> 8) & 255));
    if (steps(swapped, width) < 0.5 * claimed) throw new Error(`${what} the order of bytes`);
  }
}

/** Mean step from a row to the next, in standard deviations; of at most 256 rows. */
function steps(values, width) {
  const rows = sampled(values.length / width - 1);
  let [count, step, sum, squares] = [0, 0, 0, 0];
  for (const row of rows) {
    for (let at = row * width; at < (row + 1) * width; at++) {
      const value = values[at];
      [count, step, sum, squares] = [count + 1, step + Math.abs(value - values[at + width]), sum + value, squares + value * value];
    }
  }
  const spread = Math.sqrt(Math.max(0, squares / count - (sum / count) ** 2));
  return spread > 0 ? step / count / spread : 0;
}

function sampled(height) {
  const count = Math.min(height, 256);
  return Array.from({ length: count }, (_, i) => Math.trunc((i * (height - 1)) / Math.max(count - 1, 1)));
}

/** Refuses values that run over one end of their range and go on at the other: signed for unsigned, or the reverse. */
function checkSign(values, width, bits) {
  const whole = 2 ** bits, upper = new Map(), lower = new Map();
  let [over, apart, count] = [0, 0, 0];
  for (const row of sampled(values.length / width)) {
    for (let at = row * width; at < (row + 1) * width - 1; at++) {
      const [one, other] = [values[at], values[at + 1]], step = Math.abs(one - other);
      count += 1;
      if (Math.min(step, whole - step) > whole / 4) apart += 1;
      if (step <= whole - whole / 4) continue;
      over += 1;
      for (const [ends, end] of [[upper, Math.max(one, other)], [lower, Math.min(one, other)]]) ends.set(end, (ends.get(end) ?? 0) + 1);
    }
  }
  if (over < Math.max(20, 1e-4 * count) || 4 * apart > over) return;
  if ([upper, lower].some((ends) => 2 * Math.max(...ends.values()) > over)) return;
  throw new Error("a DICOM file whose pixels contradict what its header says of their sign");
}

/** Smallest and largest value of some bits. */
function ends(signed, bits) {
  return signed ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
}

/** Refuses a window that shows next to nothing of the values. */
function refuseBlind(values, padding, rule, centre, span) {
  const exact = rule === "SIGMOID" || rule === "LINEAR_EXACT", reach = rule === "SIGMOID" ? 0.75 : 0.5;
  const [middle, width] = exact ? [centre, span] : [centre - 0.5, Math.max(span - 1, 1e-6)];
  let [low, high, inside, count] = [Infinity, -Infinity, 0, 0];
  values.forEach((value, i) => {
    if (padding?.[i]) return;
    const place = (value - middle) / width;
    [low, high, count] = [Math.min(low, place), Math.max(high, place), count + 1];
    if (Math.abs(place) < reach) inside += 1;
  });
  const shades = Math.min(0.5, Math.max(-0.5, high)) - Math.min(0.5, Math.max(-0.5, low));
  if (low < high && (inside / count < LEAST_SHOWN || shades < LEAST_SHADES)) {
    throw new Error("a DICOM file whose window shows next to nothing of its values");
  }
}

/** Pixels outside the image proper, or null when there are none or nothing else. */
function paddingOf(tags, view, raw, signed, allocated, range = null) {
  const read = (tag) => {
    const { start, length, vr } = tags.get(tag);
    const value = signed ? view.getInt16(start, true) : view.getUint16(start, true);
    if (length !== 2 || !["", "US", "SS", "OW", "OB", "UN"].includes(vr) || (allocated === 8 && (value < -128 || value > 255 - 128 * signed))) {
      throw new Error("a DICOM file whose padding value is unusual, which this page does not read");
    }
    return value;
  };
  if (!tags.get(0x00280120)) return null;
  const one = read(0x00280120), other = tags.get(0x00280121) ? read(0x00280121) : one;
  const [low, high] = [Math.min(one, other), Math.max(one, other)];
  const mask = Uint8Array.from(raw, (value) => value >= low && value <= high);
  const count = mask.reduce((a, b) => a + b, 0);
  const different = (inside) => new Set(raw.filter((_, i) => !!mask[i] === inside)).size;
  if (one !== other && count < mask.length && different(true) > different(false)) {
    throw new Error("a DICOM file that calls most of its values padding");
  }
  if (count === 0 && range && (one < range[0] || one > range[1])) {
    throw new Error("a DICOM file whose padding value is unusual, which this page does not read");
  }
  return count > 0 && count < mask.length ? mask : null;
}

/** Position after a sequence of unknown length, whatever is nested in it. */
function skipSequence(view, at, explicit, text) {
  let depth = 1;
  while (depth > 0) {
    if (at + 8 > view.byteLength) throw new Error("a damaged DICOM file");
    const group = view.getUint16(at, true), element = view.getUint16(at + 2, true);
    if (group === 0xfffe) {
      const length = view.getUint32(at + 4, true);
      at += 8;
      if (element === 0xe0dd) depth -= 1;
      else if (element === 0xe000 && length !== END) at += length;
      continue;
    }
    const long = explicit && LONG.has(text(at + 4, 2));
    const length = !explicit ? view.getUint32(at + 4, true) : long ? view.getUint32(at + 8, true) : view.getUint16(at + 6, true);
    at += long ? 12 : 8;
    if (length === END) depth += 1;
    else at += length;
  }
  return at;
}
