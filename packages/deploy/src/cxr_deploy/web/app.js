// The page: one file in, the answer of the model out. Nothing is sent anywhere.
import * as ort from "./ort/ort.wasm.min.mjs";
import { bar } from "./bar.js";
import { isDicom, readDicom } from "./dicom.js";
import { checkJpeg, checkPng } from "./files.js";
import { enlarge, fit, isColoured, luma, reduceBlocks, resemblance, resize } from "./pixels.js";

const $ = (id) => document.getElementById(id);
const LARGEST = 100_000_000;
let model, session, shown = null;

async function start() {
  $("status").textContent = "Loading the model …";
  model = await (await fetch("model.json")).json();
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  ort.env.wasm.numThreads = 1; // more would need headers that a plain file server does not send
  session = await ort.InferenceSession.create(await (await fetch("model.onnx")).arrayBuffer(), { executionProviders: ["wasm"] });
  document.title = `${model.name} – chest radiograph classifier`;
  const bits = { fp32: "float32", int8: "8 bits" }[model.precision] ?? model.precision;
  $("model").textContent = `${model.name} (${model.architecture}, ${model.size} px, ${bits}, ${(model.bytes / 1e6).toFixed(1)} MB)`;
  $("hash").textContent = model.sha256;
  $("licences").replaceChildren(...model.licences.map((line) => element("li", line)));
  $("forbidden").textContent = model.forbidden;
  $("forbidden").hidden = !model.forbidden;
  $("about").textContent = `onnxruntime-web ${model.ort} (MIT licence).`;
  $("file").disabled = false;
  $("status").textContent = "Ready.";
}

/** Decode a file to gray, as Python does: {image, warnings}. */
async function decode(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (isDicom(bytes)) {
    const { image, lateral } = readDicom(bytes, model.window);
    return { image, warnings: lateral ? ["a lateral projection by its header"] : [] };
  }
  const jpeg = bytes[0] === 0xff && bytes[1] === 0xd8, png = bytes[0] === 0x89 && bytes[1] === 0x50;
  if (!jpeg && !png) throw new Error("not a PNG, a JPEG or an uncompressed DICOM file");
  (jpeg ? checkJpeg : checkPng)(bytes);
  let bitmap;
  try {
    const type = jpeg ? "image/jpeg" : "image/png";
    bitmap = await createImageBitmap(new Blob([bytes], { type }), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error("a damaged image: it cannot be decoded");
  }
  const { width, height } = bitmap;
  if (width * height > LARGEST || Math.min(width, height) < 16) throw new Error(`${width} x ${height} pixels, which is no usable size`);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const warnings = isColoured(rgba) ? ["a colour image"] : [];
  if (Math.max(width, height) > 1.8 * Math.min(width, height)) warnings.push("an odd shape for a chest radiograph");
  let image = luma(rgba, width, height);
  const factor = jpeg ? [8, 4, 2].find((f) => Math.floor(Math.min(width, height) / f) >= Math.floor(1.9 * model.stored)) : undefined;
  if (factor) image = reduceBlocks(image, factor);
  return { image, warnings };
}

/** Warnings that the gray values alone give; the rules of cxr_deploy/predict/unusual.py. */
function unusual(stored) {
  const values = Array.from(stored.data), mean = values.reduce((a, b) => a + b, 0) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
  if (deviation < model.rules.contrast) return ["little contrast: nearly blank"];
  const likeness = resemblance(stored, model.rules.average, Math.sqrt(model.rules.average.length));
  if (likeness < -model.rules.unlike) return ["looks inverted: air should be dark"];
  return likeness < model.rules.unlike ? ["does not look like an upright frontal chest radiograph"] : [];
}

async function classify(file) {
  $("status").textContent = "Reading …";
  for (const id of ["warning", "answers", "timing", "heat", "view"]) $(id).hidden = true;
  try {
    const { image, warnings } = await decode(file);
    const stored = fit(image, model.stored, model.aspect, model.window);
    const pixels = resize(stored, model.size, model.size);
    const tensor = new ort.Tensor("uint8", pixels.data, [1, 1, model.size, model.size]);
    const began = performance.now();
    const answer = await session.run({ pixels: tensor });
    const milliseconds = performance.now() - began;
    show(file.name, stored, answer, [...warnings, ...unusual(stored)], milliseconds);
  } catch (error) {
    $("status").textContent = `This file cannot be used: ${error.message}.`;
  }
}

/** Whether each label is called, as cxr_data/models/decisions.py decides. */
function decide(p) {
  const { task, thresholds } = model;
  if (task === "multilabel") return p.map((value, i) => value >= (thresholds.length ? thresholds[i] : 0.5));
  if (p.length === 2 && thresholds.length) return [p[1] < thresholds[1], p[1] >= thresholds[1]];
  const best = p.indexOf(Math.max(...p));
  return p.map((_, i) => i === best);
}

function show(name, stored, answer, warnings, milliseconds) {
  const p = Array.from(answer.probabilities.data), called = decide(p);
  const maps = answer.maps ? { data: answer.maps.data, height: answer.maps.dims[2], width: answer.maps.dims[3] } : null;
  const first = explainedFirst(p, called);
  shown = { stored, maps, label: first };
  const rows = model.labels.map((label, i) => {
    const row = document.createElement("tr");
    row.className = called[i] ? "called" : "";
    Object.assign(row.dataset, { label, probability: p[i], called: called[i] });
    const title = document.createElement("th");
    title.scope = "row";
    title.textContent = label;
    const value = document.createElement("td");
    const threshold = thresholdOf(i);
    value.append(p[i].toFixed(3), bar(p[i], threshold));
    if (threshold !== undefined) value.append(element("small", `threshold ${threshold.toFixed(3)}`));
    const decision = document.createElement("td");
    decision.textContent = called[i] ? "yes" : "no";
    const heat = document.createElement("td");
    if (maps) heat.append(radio(label, i, first));
    title.className = "label", value.className = "value", decision.className = "decision", heat.className = "choice";
    row.append(title, value, decision, heat);
    return row;
  });
  $("answers").tBodies[0].replaceChildren(...rows);
  $("answers").hidden = $("view").hidden = $("timing").hidden = false;
  $("heat").hidden = !maps;
  $("warning").hidden = warnings.length === 0;
  $("warning").textContent = warnings.length ? `Unlike the radiographs the model was trained on: ${warnings.join("; ")}.` : "";
  $("timing").textContent = `Answered in ${milliseconds.toFixed(0)} ms on this computer.`;
  $("timing").dataset.milliseconds = milliseconds;
  $("status").textContent = `${name}: ${model.labels.filter((_, i) => called[i]).join(", ") || "nothing"} called.`;
  paint();
}

/** The most probable of the labels called, or -1: what is not called (or the first of two classes) is explained on request. */
function explainedFirst(p, called) {
  const candidates = p.map((_, i) => i).filter((i) => called[i] && !(model.task === "multiclass" && p.length === 2 && i === 0));
  return candidates.reduce((best, i) => (best < 0 || p[i] > p[best] ? i : best), -1);
}

/** The threshold that a label's own probability is compared with; none where the most probable class is called. */
function thresholdOf(i) {
  const { task, thresholds, labels } = model;
  if (task === "multilabel") return thresholds.length ? thresholds[i] : 0.5;
  if (labels.length !== 2 || !thresholds.length) return undefined;
  return i === 1 ? thresholds[1] : 1 - thresholds[1];
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text; // never markup: names of labels and licences come from files
  return made;
}

function radio(label, i, first) {
  const made = document.createElement("input");
  Object.assign(made, { type: "radio", name: "heat", value: i, checked: i === first });
  made.setAttribute("aria-label", `Heat map of ${label}`);
  made.addEventListener("change", () => {
    shown.label = i;
    paint();
  });
  return made;
}

/** The radiograph with the heat of one label over it, if one is chosen. */
function paint() {
  const { stored, label } = shown, maps = label < 0 ? null : shown.maps, canvas = $("view"), edge = canvas.width;
  const under = resize(stored, edge, edge).data;
  const [heat, top] = maps ? heatOf(maps, label, edge) : [new Float32Array(edge * edge), 0];
  const image = new ImageData(edge, edge), opacity = $("opacity").value / 100;
  for (let i = 0; i < under.length; i++) {
    const weight = opacity * heat[i], colour = palette(heat[i]);
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = under[i] * (1 - weight) + colour[c] * weight;
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  if (maps) {
    $("explained").textContent = top > 0
      ? `Evidence for ${model.labels[label]}, relative to its strongest place: it says where, not how much. Computed in ${maps.width} × ${maps.height} cells, smoothed between them; it does not outline a finding.`
      : `No part of the image speaks for ${model.labels[label]}: the map is blank.`;
  } else {
    $("explained").textContent = "No heat map: no finding was called. Choose a label in the table to see what speaks for it.";
  }
  canvas.setAttribute("aria-label", maps ? `Radiograph with the evidence for ${model.labels[label]}` : "Radiograph");
}

/** [the positive part of a class activation map, its maximum 1, enlarged bicubically; that maximum]. */
function heatOf(maps, label, edge) {
  const count = maps.width * maps.height;
  const positive = maps.data.slice(label * count, (label + 1) * count).map((value) => Math.max(value, 0));
  const top = Math.max(...positive);
  const scaled = { data: positive.map((value) => (top > 0 ? value / top : 0)), width: maps.width, height: maps.height, top: 1 };
  return [enlarge(scaled, edge, edge).data, top];
}

function palette(value) {
  const stops = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
  const at = Math.min(value, 0.9999) * (stops.length - 1), low = Math.floor(at);
  return stops[low].map((from, c) => from + (at - low) * (stops[low + 1][c] - from));
}

/** The colour bar, with the colours as they are at full strength. */
function paintScale() {
  const canvas = $("scale"), image = new ImageData(canvas.width, 1);
  for (let i = 0; i < canvas.width; i++) image.data.set([...palette(i / (canvas.width - 1)), 255], 4 * i);
  for (let y = 0; y < canvas.height; y++) canvas.getContext("2d").putImageData(image, 0, y);
}

paintScale();
$("file").addEventListener("change", () => $("file").files.length && classify($("file").files[0]));
$("file").addEventListener("click", () => { $("file").value = ""; }); // so that the same file can be chosen again
$("opacity").addEventListener("input", () => shown && paint());
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (session && event.dataTransfer.files.length) classify(event.dataTransfer.files[0]);
});
start().catch((error) => {
  $("status").textContent = `The model could not be loaded: ${error.message}. Open this folder from a file server, for example: python -m http.server`;
});
