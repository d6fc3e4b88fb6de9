// One file in, the answer of the program on this computer out.
import { bar } from "./bar.js";

const $ = (id) => document.getElementById(id);
let shown = null;

async function start() {
  const model = await (await fetch("model.json")).json();
  const bits = { fp32: "float32", int8: "8 bits" }[model.precision] ?? model.precision;
  $("model").textContent = `${model.architecture}, ${model.size} px, ${bits}, ${(model.bytes / 1e6).toFixed(1)} MB: ${model.notice}.`;
  $("hash").textContent = model.sha256;
  $("licences").replaceChildren(...model.licences.map((line) => element("li", "", line)));
  $("forbidden").textContent = model.forbidden;
  $("forbidden").hidden = !model.forbidden;
}

async function classify(file) {
  for (const id of ["warning", "answers", "view", "bar", "explained", "plain"]) $(id).hidden = true;
  $("status").textContent = "Reading …";
  try {
    const response = await fetch("answer", { method: "POST", body: file });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    show(file.name, answer);
  } catch (error) {
    $("status").textContent = `This file cannot be used: ${error.message}.`;
  }
}

function show(name, answer) {
  shown = answer;
  $("answers").tBodies[0].replaceChildren(...answer.labels.map(row));
  $("answers").hidden = false;
  $("warning").hidden = answer.warnings.length === 0;
  $("warning").textContent = answer.warnings.length ? `Unlike the radiographs the model was trained on: ${answer.warnings.join("; ")}.` : "";
  const called = answer.labels.filter((label) => label.called).map((label) => label.name);
  $("status").textContent = `${name}: ${called.join(", ") || "nothing"} called.`;
  if (answer.explained >= 0) document.querySelector(`input[value="${answer.explained}"]`).checked = true;
  paint(answer.explained);
}

function row(label, i) {
  const made = document.createElement("tr");
  made.className = label.called ? "called" : "";
  Object.assign(made.dataset, { label: label.name, probability: label.probability, called: label.called });
  const title = element("th", "label", label.name), value = element("td", "value", label.probability.toFixed(3));
  title.scope = "row";
  value.append(bar(label.probability, label.threshold));
  if (label.threshold !== null) value.append(element("small", "", `threshold ${label.threshold.toFixed(3)}`));
  const decision = element("td", "decision", label.called ? "yes" : "no"), choice = element("td", "choice", "");
  if (label.heat) {
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "heat", value: i });
    radio.setAttribute("aria-label", `heat map of ${label.name}`);
    radio.addEventListener("change", () => paint(i));
    choice.append(radio);
  } else choice.textContent = "none";
  made.append(title, value, decision, choice);
  return made;
}

/** The radiograph, with the heat of a label over it; without where the number is negative. */
function paint(i) {
  const label = shown.labels[i];
  $("view").src = `data:image/png;base64,${label ? label.heat : shown.picture}`;
  $("view").alt = label ? `Radiograph with the evidence for ${label.name}` : "Radiograph as the network sees it";
  $("explained").textContent = label
    ? `Bright: where the evidence for ${label.name} lies, relative to its strongest place, in ${shown.heat_edge} × ${shown.heat_edge} cells. It shows what the network used, not where disease is.`
    : "The radiograph as the network sees it. Choose a label in the table to see what speaks for it.";
  $("view").hidden = $("explained").hidden = false;
  $("plain").hidden = $("bar").hidden = !label;
  if (!label) for (const radio of document.querySelectorAll("input[name=heat]")) radio.checked = false;
}

function element(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  made.textContent = text;
  return made;
}

$("file").addEventListener("change", () => $("file").files.length && classify($("file").files[0]));
$("plain").addEventListener("click", () => paint(-1));
for (const name of ["dragover", "dragleave", "drop"])
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) classify(event.dataTransfer.files[0]);
  });
start();
