// Charts from the JSON beside them, drawn when they come into view; the filter; what printing needs.
"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;
  const SYMBOLS = { o: "circle", s: "square", "^": "triangle-up", v: "triangle-down", D: "diamond", d: "diamond-tall",
    P: "cross", X: "x", x: "x-thin-open", "*": "star", "<": "triangle-left", ">": "triangle-right", h: "hexagon", p: "pentagon",
    _: "line-ew-open", "|": "line-ns-open" };
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Colours are made for white paper: on a dark one, dark colours are mixed with white.
  const shade = (color) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt((color || "#777777").slice(at, at + 2), 16));
    const luminance = (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
    const part = dark.matches && luminance < 0.5 ? 0.75 * (1 - luminance / 0.5) : 0;
    return [r, g, b].map((channel) => Math.round(channel + part * (255 - channel)));
  };
  const rgb = (color, opacity = 1) => `rgba(${shade(color).join(",")},${opacity})`;

  // A place along an axis of a scale of its own, read between the rows of its table.
  const placing = (axis) => {
    const [values, places] = axis.table;
    const log = values.every((value) => value > 0) || values.every((value) => value >= 0 && value < 1e-300 || value > 0);
    const of = (value) => (log ? Math.log(Math.max(value, 1e-323)) : value);
    return (value) => {
      if (value === null) return null;
      const up = values[values.length - 1] >= values[0];
      let low = 0, high = values.length - 1;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if ((values[middle] <= value) === up) low = middle; else high = middle;
      }
      const span = of(values[high]) - of(values[low]);
      return span === 0 ? places[low] : places[low] + (places[high] - places[low]) * (of(value) - of(values[low])) / span;
    };
  };

  const axisOf = (axis, chosen) => {
    const own = !chosen;
    const scale = chosen || axis.scale;
    const placed = own && axis.table ? placing(axis) : null;
    const log = scale === "log";
    const at = placed || (log ? (value) => (value > 0 ? Math.log10(value) : null) : (value) => value);
    const layout = { title: { text: axis.label, standoff: 6, font: { size: 13 } }, type: log ? "log" : "linear", nticks: log ? 4 : 6, automargin: true,
      gridcolor: style("--grid"), linecolor: style("--soft"), zeroline: false, exponentformat: "power", minexponent: 5,
      tickfont: { size: 12 }, tickangle: own && axis.ticks ? "auto" : 0 };
    if (own && axis.limits && axis.limits.every((end) => !log || end > 0)) layout.range = axis.limits.map(at);
    if (own && axis.ticks) Object.assign(layout, { tickmode: "array", tickvals: axis.ticks.map(([place]) => (placed ? placed(place) : place)),
      ticktext: axis.ticks.map(([, label]) => label) });
    return { layout, log, place: placed || ((value) => value) };
  };

  const told = (value) => (value === null || value === undefined ? "–" : String(+value.toPrecision(4)).replace("-", "−"));

  // What a column or row of a heat map is called: its tick, or, between ticks that count, its number.
  const named = (axis, place, otherwise) => {
    const found = (axis.ticks || []).find(([at]) => at === place);
    const counted = (axis.ticks || []).map(([at, label]) => label - at).find(Number.isFinite);
    const word = found ? found[1] : place + (counted === undefined ? 1 : counted);
    return axis.label || Number.isNaN(+word) ? `${axis.label} ${word}`.trim() : `${otherwise} ${word}`;
  };

  const heatmap = (series, panel) => {
    const { low, high, colors, bar } = series.heat;
    const text = series.z.map((row, j) => row.map((value, i) => `${named(panel.x, i, "column")}, ${named(panel.y, j, "row")}: <b>${told(value)}</b>`));
    const written = bar ? { title: { text: bar.label, side: "right", font: { size: 12 } },
      ...(bar.ticks ? { tickmode: "array", tickvals: bar.ticks.map(([place]) => place), ticktext: bar.ticks.map(([, label]) => label) } : {}) } : {};
    return { type: "heatmap", z: series.z, zmin: low, zmax: high, colorscale: colors.map((color, at) => [at / (colors.length - 1), color]),
      colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 11 }, ...written }, text, hovertemplate: `${series.told}<br>%{text}<extra></extra>` };
  };

  const tracesOf = (series, x, y, state) => {
    if (series.kind === "heat") return [heatmap(series, state.panel)];
    const look = { color: rgb(series.color, series.opacity) };
    const ranged = series.low ? series.low.map((low, at) => (low === series.high[at] ? "" : ` (${told(low)} to ${told(series.high[at])})`)) : null;
    const fewer = series.shown < series.rows ? `<br>${series.shown} of ${series.rows} points are shown` : "";
    const text = series.x.map((value, at) => `${told(value)}: <b>${told(series.y[at])}</b>${ranged ? ranged[at] : ""}`);
    const trace = { x: series.x.map(x.place), y: series.y.map(y.place), text, hovertemplate: `${series.told}<br>%{text}${fewer}<extra></extra>` };
    const errors = () => ({ type: "data", symmetric: false, thickness: 1, width: 3,
      array: series.high.map((high, at) => high - series.y[at]), arrayminus: series.low.map((low, at) => series.y[at] - low) });
    if (series.kind === "bars") {
      return [{ ...trace, type: "bar", textposition: "none", width: series.width_of_bars, marker: look, ...(series.low && state.bands ? { error_y: errors() } : {}) }];
    }
    if (series.kind === "points") {
      const marker = { ...look, size: 8, symbol: SYMBOLS[series.marker] || "circle", line: { width: ["x", "_", "|"].includes(series.marker) ? 2 : 0, color: look.color } };
      return [{ ...trace, type: "scatter", mode: "markers", marker, ...(series.low && state.bands ? { error_y: errors() } : {}) }];
    }
    const width = Math.max(1.2, 1.5 * series.width);
    const dash = series.dash.length ? series.dash.map((stroke) => `${(stroke * width).toFixed(1)}px`).join(",") : "solid";
    const line = { ...trace, type: "scatter", mode: series.rows < (series.marker ? 40 : 12) ? "lines+markers" : "lines",
      line: { ...look, width, dash }, marker: { ...look, size: 6, symbol: SYMBOLS[series.marker] || "circle" } };
    if (series.kind === "level") return [{ ...line, x: state.ends, y: [series.y[0], series.y[0]].map(y.place), mode: "lines", text: [told(series.y[0]), told(series.y[0])] }];
    if (series.kind === "moment") return [{ ...line, x: [series.x[0], series.x[0]].map(x.place), y: state.heights, mode: "lines", text: [told(series.x[0]), told(series.x[0])] }];
    if (series.kind !== "band" || !state.bands) return [line];
    const least = Math.min(...series.y.filter((value) => value > 0)) / 1e3;
    const rows = series.x.map((_, at) => at).filter((at) => series.low[at] !== null && series.high[at] !== null && (!x.log || series.x[at] > 0));
    const floor = (value) => y.place(y.log ? Math.max(value, least) : value);
    const band = { type: "scatter", mode: "lines", fill: "toself", hoverinfo: "skip", line: { width: 0 }, fillcolor: rgb(series.color, 0.2),
      x: [...rows, ...[...rows].reverse()].map((at) => x.place(series.x[at])),
      y: [...rows.map((at) => floor(series.high[at])), ...[...rows].reverse().map((at) => floor(series.low[at]))] };
    return [band, line];
  };

  // From where to where the lines go that cross a whole panel.
  const reach = (panel, which, axis, chosen) => {
    const all = panel.series.flatMap((series) => series[which] || []).filter((value) => value !== null && (!axis.log || value > 0));
    return (panel[which].limits && !chosen ? panel[which].limits : [Math.min(...all), Math.max(...all)]).map(axis.place);
  };

  const drawPanel = (place, panel, state) => {
    const x = axisOf(panel.x, state.x), y = axisOf(panel.y, state.y);
    const shown = panel.series.filter((series) => !state.hidden.has(series.of));
    const ends = reach(panel, "x", x, state.x), heights = reach(panel, "y", y, state.y);
    const bars = [...new Set(panel.series.filter((series) => series.kind === "bars").flatMap((series) => series.x))].sort((a, b) => a - b);
    const gap = Math.min(1, ...bars.slice(1).map((value, at) => value - bars[at]));
    const traces = shown.flatMap((series) => tracesOf({ ...series, width_of_bars: 0.9 * gap }, x, y, { ...state, ends, heights, panel }));
    const layout = { xaxis: x.layout, yaxis: y.layout, margin: { l: 48, r: 12, t: 8, b: 40 }, showlegend: false, hovermode: "closest",
      barmode: "overlay", dragmode: coarse ? false : "zoom", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", color: style("--ink") }, uirevision: `${state.x}|${state.y}|${state.turn}`,
      hoverlabel: { font: { size: 13 }, align: "left" } };
    const options = { displaylogo: false, responsive: true, modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] };
    return Plotly.react(place, traces, layout, options);
  };

  const charts = [...document.querySelectorAll(".chart")].map((element) => {
    const state = { hidden: new Set(), bands: true, x: "", y: "", turn: 0 };
    let panels = null;
    const draw = async () => {
      element.querySelectorAll("[data-color]").forEach((mark) => mark.style.setProperty("color", rgb(mark.dataset.color)));
      panels = panels || JSON.parse(element.querySelector("script").textContent).panels;
      await Promise.all([...element.querySelectorAll(".plot")].map((place, at) => drawPanel(place, panels[at], state)));
      element.dataset.drawn = "true";
    };
    const press = (button, on) => button.setAttribute("aria-pressed", String(on));
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if ("name" in button.dataset) {
        const name = +button.dataset.name;
        if (!state.hidden.delete(name)) state.hidden.add(name);
        press(button, !state.hidden.has(name));
      } else if ("bands" in button.dataset) {
        state.bands = !state.bands;
        press(button, state.bands);
      } else if ("reset" in button.dataset) {
        Object.assign(state, { hidden: new Set(), bands: true, x: "", y: "", turn: state.turn + 1 });
        element.querySelectorAll("[aria-pressed]").forEach((other) => press(other, true));
        element.querySelectorAll("select").forEach((select) => { select.value = ""; });
      } else return;
      draw();
    });
    element.addEventListener("change", (event) => {
      if (!event.target.dataset.axis) return;
      state[event.target.dataset.axis] = event.target.value;
      draw();
    });
    return { element, draw, drawn: () => "drawn" in element.dataset };
  });
  const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    seen.unobserve(target);
    charts.find((chart) => chart.element === target).draw();
  }), { rootMargin: "600px" });
  charts.forEach((chart) => seen.observe(chart.element));
  dark.addEventListener("change", () => charts.filter((chart) => chart.drawn()).forEach((chart) => chart.draw()));

  document.querySelectorAll("[data-picture]").forEach((button) => button.addEventListener("click", () => {
    const shows = button.closest(".figure").classList.toggle("shows-picture");
    button.setAttribute("aria-pressed", String(shows));
  }));

  // What is shown: claims of a kind with their figures, and figures in which an optimizer runs.
  const filters = [...document.querySelectorAll("[data-filter], [data-optimizer]")];
  const chosen = { filter: "", optimizer: "" };
  const filter = (choice) => {
    Object.assign(chosen, choice);
    filters.forEach((button) => button.setAttribute("aria-pressed",
      String("filter" in button.dataset ? button.dataset.filter === chosen.filter : button.dataset.optimizer === chosen.optimizer)));
    const kept = ({ dataset }) => (!chosen.filter || dataset.kinds.split(" ").includes(chosen.filter))
      && (!chosen.optimizer || !("optimizers" in dataset) || dataset.optimizers.split("|").includes(chosen.optimizer));
    document.querySelectorAll("[data-kinds]").forEach((element) => { element.hidden = !kept(element); });
    document.querySelectorAll("section.paper").forEach((paper) => { paper.hidden = !paper.querySelector(".figure:not([hidden])"); });
    const failing = document.getElementById("failing");  // a list of all papers, in the way of what was asked for
    if (failing) failing.hidden = Boolean(chosen.optimizer) || !["", "fails"].includes(chosen.filter);
    if (chosen.filter) document.querySelectorAll(".holding").forEach((details) => { details.open = true; });
    const nothing = document.querySelector(".nothing");
    if (nothing) nothing.hidden = Boolean(document.querySelector(".figure:not([hidden])"));
  };
  filters.forEach((button) => button.addEventListener("click", () => filter("filter" in button.dataset
    ? { filter: button.dataset.filter } : { optimizer: button.dataset.optimizer })));
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const folded = target.closest("details:not([open])"), hidden = filters.length && target.closest("[hidden]");
    if (folded) folded.open = true;
    if (hidden) filter({ filter: "", optimizer: "" });
    if (folded || hidden) target.scrollIntoView();
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
})();
