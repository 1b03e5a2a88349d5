"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const palette = ["#3b6fd4", "#e0872c", "#2f9e6e", "#c4478a", "#8661c9", "#c9a61c", "#3aa6b9", "#b5533c", "#6b8e3a", "#5c7a99"];
  const plain = { displaylogo: false, responsive: true };

  const seconds = (value) => {
    for (const [scale, unit] of [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]) {
      if (Math.abs(value) >= scale) return `${(value / scale).toPrecision(3)} ${unit}`;
    }
    return `${(value / 1e-9).toPrecision(3)} ns`;
  };

  const layout = (more) => {
    const css = getComputedStyle(root);
    const color = (name) => css.getPropertyValue(name).trim();
    const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
    return Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: palette,
      font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
      margin: { l: 70, r: 16, t: 30, b: 40 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--quiet"), activecolor: color("--accent") },
      legend: { orientation: "h", y: 1.12 },
    }, more, { xaxis: Object.assign({}, axis, more.xaxis), yaxis: Object.assign({}, axis, more.yaxis) });
  };

  // plotly reads <b>, <a href> and the like in text: names are shown as they are
  const text = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const isAlone = (_, i, values) => [values[i], values[i - 1] ?? null, values[i + 1] ?? null].every((value, j) => (value === null) === (j > 0));

  const draw = () => {
    if (document.getElementById("icicle")) {
      const { ids, parents, labels, values, totals, counts } = data.icicle;
      Plotly.react("icicle", [{
        type: "icicle", ids, parents, labels: labels.map((name) => text(name)), values,
        branchvalues: "remainder", root: { color: getComputedStyle(root).getPropertyValue("--line").trim() }, tiling: { orientation: "v" }, sort: true,
        leaf: { opacity: 1 }, // plotly chooses the text's color for the full one
        customdata: ids.map((_, i) => [seconds(totals[i]), seconds(values[i]), counts[i].toLocaleString()]),
        hovertemplate: "%{label}<br>total %{customdata[0]}<br>self %{customdata[1]}<br>%{customdata[2]} calls<extra></extra>",
        texttemplate: "%{label} %{customdata[0]}",
      }], layout({ margin: { l: 4, r: 4, t: 4, b: 4 } }), plain);
    }
    if (document.getElementById("lines")) {
      Plotly.react("lines", data.memory.map((line) => ({
        type: "scatter", mode: line.y.some(isAlone) ? "lines+markers" : "lines", marker: { size: 4 }, name: line.name, x: line.x, y: line.y,
        line: line.limit ? { dash: "dot", width: 1.5 } : { width: 1.5 },
        visible: line.limit ? "legendonly" : true, connectgaps: false,
      })), layout({ xaxis: { title: { text: "seconds" } }, yaxis: { title: { text: "bytes" }, tickformat: ".3s", rangemode: "tozero" } }), plain);
    }
    if (document.getElementById("loaders")) {
      const names = data.loaders.map((loader) => text(loader.name));
      const bars = (key, name, color) => ({
        type: "bar", orientation: "h", name, y: names, x: data.loaders.map((loader) => loader[key]), marker: { color },
      });
      Plotly.react("loaders", [bars("wait", "waited for data", "#e0872c"), bars("compute", "computed", "#3b6fd4")],
        layout({ barmode: "stack", xaxis: { title: { text: "seconds" } }, yaxis: { automargin: true } }), plain);
    }
  };

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => { root.dataset.theme = theme; draw(); };
  document.getElementById("theme").addEventListener("click", () => show(root.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => show(dark.matches ? "dark" : "light"));
  show(location.hash === "#dark" || dark.matches ? "dark" : "light");

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      const cell = event.target.closest("th");
      if (!cell) return;
      const column = cell.cellIndex;
      const descending = cell.getAttribute("aria-sort") !== "descending";
      for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => {
        const field = row.cells[column];
        return field.dataset.v === undefined ? field.textContent : Number(field.dataset.v);
      };
      const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b)) * (descending ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  }
})();
