"use strict";
(() => {
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const tip = document.getElementById("tip");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const DRAWN_AS_SVG = 3000; // rows; a canvas draws more of them faster
  const IN_THE_DARK = {"#000000": "#f2f2f2", "#333333": "#d8d8d8", "#5b5b5b": "#b0b0b0", "#0173b2": "#4ba3dc"};
  let views = [];
  let turn = 0; // of drawing: a later one ends those before it

  const isDark = () => root.dataset.theme === "dark";
  const variable = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const looks = () => {
    const [text, faint, line] = [variable("--text"), variable("--faint"), variable("--line")];
    const font = "system-ui, sans-serif";
    const axis = {labelColor: text, titleColor: text, gridColor: line, domainColor: faint, tickColor: faint,
      labelFont: font, titleFont: font, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 12};
    return {background: null, axis, view: {stroke: null},
      legend: {labelColor: text, titleColor: text, labelFont: font, titleFont: font, labelFontSize: 12},
      title: {color: text, subtitleColor: faint, font, subtitleFont: font, fontSize: 14},
      header: {labelColor: text, titleColor: text, labelFont: font, titleFont: font}};
  };

  const rowsOf = (figure) => figure.values.map(
    (row) => Object.fromEntries(row.map((value, index) => [figure.columns[index], value])));

  const specOf = (figure) => {
    let text = JSON.stringify(figure.spec);
    for (const [light, dark] of isDark() ? Object.entries(IN_THE_DARK) : []) text = text.replaceAll(`"${light}"`, `"${dark}"`);
    return {...JSON.parse(text), datasets: {rows: rowsOf(figure), marks: figure.marks}};
  };

  const showTip = (handler, event, item, value) => {
    if (value === null || value === undefined || value === "" || typeof value !== "object") {
      tip.style.display = "none";
      return;
    }
    const table = document.createElement("table");
    for (const [key, told] of Object.entries(value)) {
      const row = table.insertRow();
      const heading = document.createElement("th");
      heading.textContent = key;
      row.append(heading);
      row.insertCell().textContent = told;
    }
    tip.replaceChildren(table);
    tip.style.display = "block";
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  };

  const draw = async () => {
    const own = ++turn;
    views.forEach((view) => view.finalize());
    views = [];
    for (const [index, figure] of figures.entries()) {
      const place = document.getElementById(`chart-${index}`);
      place.replaceChildren();
      const compiled = vegaLite.compile(specOf(figure), {config: looks()}).spec;
      const renderer = figure.values.length > DRAWN_AS_SVG ? "canvas" : "svg";
      const view = new vega.View(vega.parse(compiled), {renderer, container: place, hover: true, tooltip: showTip});
      views.push(view);
      await view.runAsync();
      if (own !== turn) return;
    }
    root.dataset.drawn = String(views.length);
  };

  const save = (name, type, content) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], {type}));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  const cell = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (figure) => [figure.columns, ...figure.values].map((row) => row.map(cell).join(",")).join("\n") + "\n";

  document.addEventListener("click", async ({target}) => {
    const {save: what, figure: index, name} = target.dataset;
    if (what === "csv") save(`${figures[index].name}.csv`, "text/csv", csv(figures[index]));
    if (what === "svg") save(`${figures[index].name}.svg`, "image/svg+xml", await views[index].toSVG());
    if (what === "text") save(name, "text/plain", document.getElementById(target.dataset.from).textContent);
  });

  const setTheme = (dark) => {
    root.dataset.theme = dark ? "dark" : "light";
    draw();
  };
  document.getElementById("theme").addEventListener("click", () => setTheme(!isDark()));
  prefersDark.addEventListener("change", () => setTheme(prefersDark.matches));
  addEventListener("scroll", () => { tip.style.display = "none"; }, {passive: true});
  const asked = new URLSearchParams(location.search).get("theme");
  setTheme(asked === null ? prefersDark.matches : asked === "dark");
})();
