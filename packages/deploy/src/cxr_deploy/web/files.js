// What a browser decodes without a word though predict refuses it: told by the bytes of the file.

/** Refuses a PNG of 16 bits, of several pictures, that is cut, or whose checksums do not agree. */
export function checkPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes[24] === 16) throw new Error("a PNG of 16 bits, of which a browser shows 8: predict reads it");
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at), end = at + 8 + length;
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (end + 4 > bytes.length) break;
    if (name === "acTL") throw new Error("a PNG of several pictures");
    if (name === "eXIf") throw new Error("a PNG that says it is turned, which this page does not read");
    if (bytes[at + 4] < 0x60 && crc(bytes.subarray(at + 4, end)) !== view.getUint32(end)) {
      throw new Error("a damaged PNG: its checksums do not agree");
    }
    if (name === "IEND") return;
    at = end + 4;
  }
  throw new Error("a truncated PNG");
}

function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = (sum >>> 8) ^ TABLE[(sum ^ byte) & 255];
  return (sum ^ 0xffffffff) >>> 0;
}

const TABLE = Int32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** Refuses a JPEG that is cut, of several pictures or of four inks, or with a marker within its scan that none has. */
export function checkJpeg(bytes) {
  let at = 2, frames = 0, scan = false;
  for (;;) {
    while (at < bytes.length && (scan ? isCode(bytes, at) : bytes[at] === 0xff && bytes[at + 1] === 0xff)) at++;
    if (at + 2 > bytes.length) throw new Error("a truncated JPEG");
    const marker = bytes[at + 1], frame = marker >= 0xc0 && marker <= 0xcf;
    if (marker === 0xd9) break;
    if (bytes[at] !== 0xff || marker === 0xc8 || !(frame || (marker >= 0xda && marker <= 0xef) || marker === 0xfe)) {
      throw new Error("a damaged JPEG");
    }
    if (frame && marker !== 0xc4 && marker !== 0xcc) {
      frames += 1;
      if (bytes[at + 9] > 3) throw new Error("a JPEG of four inks (CMYK), which this page does not read");
    }
    at += 2 + bytes[at + 2] * 256 + bytes[at + 3];
    scan = marker === 0xda;
  }
  if (frames !== 1) throw new Error("a JPEG of several pictures, or of none");
}

/** Whether a byte belongs to the codes of a scan, restart markers among them. */
function isCode(bytes, at) {
  const next = bytes[at + 1];
  return bytes[at] !== 0xff || next === 0 || next === 0xff || (next >= 0xd0 && next <= 0xd7);
}
