"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ratio = (a, b) => (b > 0 ? (a / b).toFixed(3) : "–");
  // A mark is a circle in a chart whose data-plot names the plot area: left, top, width, height.
  const move = (id, x, y) => {
    const mark = document.querySelector(`[data-mark="${id}"]`);
    if (!mark) return;
    const defined = Number.isFinite(x) && Number.isFinite(y);
    mark.style.display = defined ? "" : "none";
    if (!defined) return;
    const [left, top, width, height] = mark.ownerSVGElement.dataset.plot.split(" ").map(Number);
    mark.setAttribute("cx", left + x * width);
    mark.setAttribute("cy", top + (1 - y) * height);
  };
  for (const card of document.querySelectorAll("[data-card]")) {
    const key = card.dataset.card;
    const [label, model] = key.split("-").map(Number);
    const { positives, negatives, models } = data[label];
    const points = models[model];
    const slider = card.querySelector("input");
    const output = card.querySelector("output");
    const show = () => {
      const i = Number(slider.value);
      const tp = points.tp[i], fp = points.fp[i], fn = positives - tp, tn = negatives - fp;
      const values = {
        tp, fp, fn, tn, recall: ratio(tp, positives), specificity: ratio(tn, negatives), precision: ratio(tp, tp + fp),
        npv: ratio(tn, tn + fn), f1: ratio(2 * tp, 2 * tp + fp + fn),
      };
      for (const place of card.querySelectorAll("[data-c]")) place.textContent = values[place.dataset.c];
      output.textContent = points.t[i] === null ? "∞" : String(points.t[i]);
      slider.setAttribute("aria-valuetext", output.textContent);
      move(`roc-${key}`, fp / negatives, tp / positives);
      move(`pr-${key}`, tp / positives, tp / (tp + fp));
    };
    slider.addEventListener("input", show);
    card.querySelector(".reset").addEventListener("click", () => { slider.value = points.start; show(); });
    slider.value = points.start; // browsers restore sliders on reload
    show();
  }
  // One choice of label for every section that shows labels one at a time.
  const picks = [...document.querySelectorAll(".pick-label")];
  const choose = (value) => {
    for (const pick of picks) pick.value = value;
    for (const panel of document.querySelectorAll("[data-panel]")) panel.hidden = panel.dataset.panel !== value;
  };
  for (const pick of picks) pick.addEventListener("change", () => choose(pick.value));
  if (picks.length) choose(picks[0].value);
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details")) d.open = true; });
})();
