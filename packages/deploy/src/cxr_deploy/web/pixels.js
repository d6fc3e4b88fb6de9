// From a decoded image to the pixels the network takes: the arithmetic of cxr_data/images/read.py and augment.py.
// An image is {data: Uint8Array or Float32Array, width, height, top}; top is the value of full white (255 or 1).

/**
 * Shrink by averaging areas where no side grows, else bilinearly, as OpenCV's INTER_AREA and INTER_LINEAR do.
 * In float32 like there: shares such as 3/4 make many averages end in exactly one half, and which way those round
 * depends on the last bit.
 */
export function resize(image, width, height) {
  if (image.width === width && image.height === height) return image;
  const shrinks = image.width >= width && image.height >= height;
  if (shrinks && image.width % width === 0 && image.height % height === 0) return shrinkWhole(image, width, height);
  const weights = shrinks ? areaWeights : linearWeights;
  const across = weights(image.width, width), down = weights(image.height, height);
  const rows = new Float32Array(width * image.height);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) rows[y * width + x] = weigh(across[x], image.data, y * image.width, 1);
  }
  const data = blank(image, width * height);
  const store = data instanceof Uint8Array ? toByte : (value) => value;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) data[y * width + x] = store(weigh(down[y], rows, x, width));
  }
  return { data, width, height, top: image.top };
}

function weigh(weights, values, start, step) {
  let sum = 0;
  for (const [from, weight] of weights) sum = Math.fround(sum + Math.fround(weight * values[start + from * step]));
  return sum;
}

function blank(image, length) {
  return image.data instanceof Uint8Array ? new Uint8Array(length) : new Float32Array(length);
}

/** Shrink by whole numbers: plain sums; 2 x 2 rounds halves up, as there. */
function shrinkWhole(image, width, height) {
  const across = image.width / width, down = image.height / height, share = Math.fround(1 / (across * down));
  const data = blank(image, width * height), bytes = data instanceof Uint8Array;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let j = 0; j < down; j++) {
        const start = (y * down + j) * image.width + x * across;
        for (let i = 0; i < across; i++) sum += image.data[start + i];
      }
      if (bytes) data[y * width + x] = across === 2 && down === 2 ? (sum + 2) >> 2 : toByte(Math.fround(sum * share));
      else data[y * width + x] = sum * share;
    }
  }
  return { data, width, height, top: image.top };
}

/** For each output the inputs it covers, weighted by the share of each: [[index, weight], ...]. */
function areaWeights(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, i) => {
    const start = i * scale, end = start + scale, cell = Math.min(scale, from - start), found = [];
    const last = Math.min(Math.floor(end), from - 1), first = Math.min(Math.ceil(start), last);
    if (first - start > 1e-3) found.push([first - 1, Math.fround((first - start) / cell)]);
    for (let at = first; at < last; at++) found.push([at, Math.fround(1 / cell)]);
    if (end - last > 1e-3) found.push([last, Math.fround(Math.min(end - last, 1, cell) / cell)]);
    return found;
  });
}

function linearWeights(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, i) => {
    const at = Math.min(Math.max((i + 0.5) * scale - 0.5, 0), from - 1), low = Math.floor(at);
    return low + 1 < from ? [[low, 1 - at + low], [low + 1, at - low]] : [[low, 1]];
  });
}

/** Enlarge a float image bicubically as OpenCV's INTER_CUBIC does (a = -3/4, edges repeated), within 0..top. */
export function enlarge(image, width, height) {
  const across = cubicWeights(image.width, width), down = cubicWeights(image.height, height);
  const rows = new Float32Array(width * image.height), data = new Float32Array(width * height);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < width; x++) rows[y * width + x] = weigh(across[x], image.data, y * image.width, 1);
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) data[y * width + x] = Math.min(image.top, Math.max(0, weigh(down[y], rows, x, width)));
  }
  return { data, width, height, top: image.top };
}

function cubicWeights(from, to) {
  const near = (t) => (1.25 * t - 2.25) * t * t + 1, far = (t) => ((-0.75 * t + 3.75) * t - 6) * t + 3;
  return Array.from({ length: to }, (_, i) => {
    const at = (i + 0.5) * (from / to) - 0.5, low = Math.floor(at), t = at - low;
    const shares = [far(1 + t), near(t), near(1 - t), far(2 - t)];
    return shares.map((share, k) => [Math.min(from - 1, Math.max(0, low - 1 + k)), share]);
  });
}

/** Round half to even, as Python does; Math.round rounds half up. */
function round(value) {
  const low = Math.floor(value), rest = value - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

/** Round half to even and keep within 0..255. */
export function toByte(value) {
  return Math.min(255, Math.max(0, round(value)));
}

/** A decoded image as the square a cohort stores: resampled, mapped to 8 bits, then padded. */
export function fit(image, size, aspect, window) {
  let { width, height } = image;
  if (aspect === "crop") {
    const edge = Math.min(width, height);
    image = crop(image, (width - edge) >> 1, (height - edge) >> 1, edge);
    width = height = edge;
  }
  let rows = size, columns = size;
  if (aspect === "pad") {
    const longest = Math.max(width, height);
    rows = Math.max(1, round((height * size) / longest));
    columns = Math.max(1, round((width * size) / longest));
  }
  const gray = toBytes(resize(image, columns, rows), window);
  if (gray.data.every((value) => value === gray.data[0])) throw new Error("blank: every pixel has the same value");
  if (aspect !== "pad") return gray;
  const data = new Uint8Array(size * size), top = (size - rows) >> 1, left = (size - columns) >> 1;
  for (let y = 0; y < rows; y++) data.set(gray.data.subarray(y * columns, (y + 1) * columns), (top + y) * size + left);
  return { data, width: size, height: size, top: 255 };
}

function crop(image, left, top, edge) {
  const data = new image.data.constructor(edge * edge);
  for (let y = 0; y < edge; y++) {
    const start = (top + y) * image.width + left;
    data.set(image.data.subarray(start, start + edge), y * edge);
  }
  return { data, width: edge, height: edge, top: image.top };
}

function toBytes(image, window) {
  let low = 0, high = image.top;
  if (window === "percentile") {
    const sorted = Float64Array.from(image.data).sort();
    [low, high] = [0.005, 0.995].map((share) => {
      const at = share * (sorted.length - 1), below = Math.floor(at);
      return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
    });
    if (high <= low) [low, high] = [sorted[0], sorted[sorted.length - 1]];
  } else if (image.data instanceof Uint8Array) {
    return image;
  }
  const scale = 255 / Math.max(high - low, 1e-12);
  return { ...image, data: Uint8Array.from(image.data, (value) => toByte((value - low) * scale)), top: 255 };
}

/** Pearson correlation of the image's thumbnail with the average radiograph, both edge x edge. */
export function resemblance(image, average, edge) {
  const small = resize(image, edge, edge).data;
  const centred = (values) => {
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    return Array.from(values, (value) => value - mean);
  };
  const ours = centred(Array.from(small)), theirs = centred(average);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const norm = Math.sqrt(dot(ours, ours) * dot(theirs, theirs));
  return norm > 0 ? dot(ours, theirs) / norm : 0;
}

/** RGBA as luma (ITU-R BT.601), with OpenCV's integer weights; alpha is ignored. */
export function luma(rgba, width, height) {
  const data = new Uint8Array(width * height);
  for (let i = 0; i < data.length; i++) {
    data[i] = (rgba[4 * i] * 4899 + rgba[4 * i + 1] * 9617 + rgba[4 * i + 2] * 1868 + 8192) >> 14;
  }
  return { data, width, height, top: 255 };
}

/** Whether more than a twentieth of the pixels differ by over 24 between their strongest and weakest channel. */
export function isColoured(rgba) {
  let coloured = 0;
  for (let i = 0; i < rgba.length; i += 4) {
    const spread = Math.max(rgba[i], rgba[i + 1], rgba[i + 2]) - Math.min(rgba[i], rgba[i + 1], rgba[i + 2]);
    if (spread > 24) coloured++;
  }
  return coloured > 0.05 * (rgba.length / 4);
}

/**
 * What libjpeg gives that is asked for 1/2, 1/4 or 1/8: its reduced inverse transforms are the full one with
 * neighbours averaged (at 1/2 every frequency but the fourth counts, at 1/4 the odd ones). It averages before it rounds
 * to 8 bits, which a browser has done already: about one pixel in 25 is one gray level off.
 */
export function reduceBlocks(image, factor) {
  const width = Math.ceil(image.width / factor), height = Math.ceil(image.height / factor);
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let j = 0; j < factor; j++) {
        const start = Math.min(y * factor + j, image.height - 1) * image.width;
        for (let i = 0; i < factor; i++) sum += image.data[start + Math.min(x * factor + i, image.width - 1)];
      }
      data[y * width + x] = toByte(sum / factor ** 2);
    }
  }
  return { data, width, height, top: 255 };
}
