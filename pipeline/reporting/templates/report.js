"use strict";
const root = document.documentElement;
const remembered = (key) => { try { return localStorage.getItem("hanforge-" + key); } catch { return null; } };
const remember = (key, value) => { try { localStorage.setItem("hanforge-" + key, value); } catch { /* file:// may forbid it */ } };
function setLanguage(language) {
  root.dataset.language = language; root.lang = language;
  for (const item of document.querySelectorAll("[data-ko]")) item.setAttribute("aria-label", item.dataset[language]);
}
function setTheme(theme) {
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  document.getElementById("theme-sign").textContent = { auto: "◐", light: "○", dark: "●" }[theme];
}
const themes = ["auto", "light", "dark"];
let theme = themes.includes(remembered("theme")) ? remembered("theme") : (root.dataset.theme || "auto");
setTheme(theme);
const language = remembered("language");
setLanguage(language === "ko" || language === "en" ? language : root.dataset.language);
document.getElementById("language").addEventListener("click", () => {
  setLanguage(root.dataset.language === "ko" ? "en" : "ko"); remember("language", root.dataset.language);
});
document.getElementById("theme").addEventListener("click", () => {
  theme = themes[(themes.indexOf(theme) + 1) % themes.length]; setTheme(theme); remember("theme", theme);
});
const shown = (value) => value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
for (const chart of document.querySelectorAll("svg.chart")) {
  const series = JSON.parse(chart.dataset.series), cross = chart.querySelector(".cross");
  const readout = chart.parentElement.querySelector(".readout"), rest = readout.innerHTML;
  const steps = [...new Set(series.flatMap((one) => one.points.map((point) => point[2])))].sort((a, b) => a - b);
  let at = -1;
  const show = (x) => {
    cross.setAttribute("x1", x); cross.setAttribute("x2", x);
    readout.replaceChildren();
    for (const one of series) {
      const point = one.points.reduce((a, b) => Math.abs(b[2] - x) < Math.abs(a[2] - x) ? b : a);
      if (one.points.length < steps.length / 2 && Math.abs(point[2] - x) > 6) continue;
      if (!readout.childElementCount) { const step = document.createElement("span"); step.className = "plain"; step.textContent = { ko: "스텝 ", en: "step " }[root.dataset.language] + point[0].toLocaleString("en"); readout.append(step); }
      const item = document.createElement("span"); item.className = one.style; item.textContent = one.name[root.dataset.language] + " " + shown(point[1]); readout.append(item);
    }
  };
  const hide = () => { cross.setAttribute("x1", -9); cross.setAttribute("x2", -9); readout.innerHTML = rest; at = -1; };
  const near = (x) => steps.reduce((a, b) => Math.abs(b - x) < Math.abs(a - x) ? b : a);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    show(near((event.clientX - box.left) / box.width * chart.viewBox.baseVal.width));
  });
  chart.addEventListener("pointerleave", hide);
  chart.tabIndex = 0;
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    at = Math.min(steps.length - 1, Math.max(0, at + (event.key === "ArrowRight" ? 1 : -1))); show(steps[at]);
  });
}
