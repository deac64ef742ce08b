// Controls, colours, and the order in which things are drawn.
const PLOTTED = typeof Plotly !== "undefined";
const dark = matchMedia("(prefers-color-scheme: dark)");
const LIGHT_LOOK = {
  palette: ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8ad00", "#777777"],
  inner: ["#08306b", "#2f6fb0", "#85b7df"], grey: ["#8a8f98", "#c3c7ce"], below: ["#1b1f26", "#5f7a94", "#8c5a2b", "#6a3d9a", "#b0356f"],
};
const DARK_LOOK = {
  palette: ["#3d9bdc", "#e69f00", "#2fb58c", "#d88bb5", "#7cc8f5", "#e8713a", "#f0e442", "#9a9a9a"],
  inner: ["#2d6fc4", "#5f9fe0", "#a9d1f5"], grey: ["#8f959f", "#5b616b"], below: ["#e8eaee", "#9db4cc", "#c99560", "#b794e0", "#e58ab8"],
};

function look() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(`--${name}`).trim();
  const base = dark.matches ? DARK_LOOK : LIGHT_LOOK;
  const chips = [0, 1, 2, 3, 4, 5].map((i) => value(`chip-${i}`));
  return { ...base, chips, text: value("text"), quiet: value("quiet"), panel: value("panel"), line: value("line") };
}

function baseLayout() {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: look().text },
    hoverlabel: { bgcolor: look().panel, bordercolor: look().line, font: { color: look().text }, align: "left", namelength: -1 },
  };
}

function axis(title) {
  return { title: { text: title, standoff: 6 }, gridcolor: look().line, linecolor: look().line, zerolinecolor: look().line, automargin: false };
}

// What bounds kernels, the longest first, each with a colour of its own on all plots.
function boundColours() {
  const seconds = new Map();
  for (const chip of report.chips) chip.kernels.group.forEach((bound, i) => seconds.set(bound, (seconds.get(bound) || 0) + chip.kernels.latency[i] / chip.latency));
  const ranked = [...seconds].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const { palette } = look();
  return new Map(ranked.map(([bound], i) => [bound, palette[Math.min(i, palette.length - 1)]]));
}

// A legend above the drawing, which gets the room that the legend's rows are going to take.
function legendAbove(id, names, height) {
  const entry = 56 + 7 * names.reduce((most, name) => Math.max(most, name.length), 0);
  const across = Math.max(Math.floor((byId(id).clientWidth - 24) / entry), 1);
  const top = 14 + 20 * Math.ceil(names.length / across);
  byId(id).style.height = `${height + top}px`;
  return { margin: { l: 10, r: 14, t: top, b: 40 }, showlegend: names.length > 0, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", traceorder: "normal", itemwidth: 30 } };
}

function draw(id, traces, layout) {
  return Plotly.react(byId(id), traces, layout, { responsive: true, displayModeBar: false });
}

function drawPlots(changes) {
  if (!PLOTTED) return;
  const touches = (...names) => names.some((name) => name in changes);
  if (touches("chip", "module", "metric", "look")) drawTree();
  if (touches("chip", "module", "level", "look")) drawRoofline();
  if (touches("module", "look", "view")) drawTimeline();
  if (touches("module", "look")) drawEnergy();
}

function drawTrail() {
  const names = state.module === "" ? [] : state.module.split(".");
  const steps = ["", ...names.map((_, i) => names.slice(0, i + 1).join("."))];
  const links = steps.flatMap((path, i) => {
    const button = element("button", { type: "button", textContent: i ? shown(names[i - 1]) : "all modules" });
    button.addEventListener("click", () => choose({ module: path }));
    if (i === steps.length - 1) button.setAttribute("aria-current", "true");
    return i ? [i > 1 ? "." : " / ", button] : [button];
  });
  byId("trail").replaceChildren(...links);
  const chip = report.chips[state.chip];
  const rows = chip.rows.op;
  const latency = chosenSum(chip, rows.latency);
  byId("chosen").textContent = `${si(latency, "s")} on ${chip.name} (${percent(chip.latency ? latency / chip.latency : 0)} % of all), ` +
    `${si(chosenSum(chip, rows.energy), "J")}, ${si(chosenSum(chip, rows.bytes), "B")} of ${chip.external || "external"} traffic` +
    (chip.hypothetical ? "; hypothetical, for the model does not fit" : "");
}

function wire() {
  const onChange = (id, change) => byId(id)?.addEventListener("change", (event) => choose(change(event.target.value)));
  onChange("chip", (value) => ({ chip: Number(value) }));
  onChange("metric", (value) => ({ metric: value }));
  onChange("level", (value) => ({ level: value }));
  onChange("by", (value) => ({ by: value, sort: state.sort }));
  byId("filter").addEventListener("input", (event) => choose({ filter: event.target.value }));
  byId("more").addEventListener("click", () => choose({ rows: state.rows + 500 }));
  dark.addEventListener("change", () => choose({ look: null }));
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT)$/.test(event.target.tagName);
    if (event.key === "Escape" && state.module && !typing) choose({ module: state.module.split(".").slice(0, -1).join(".") });
  });
  const level = byId("level");
  if (level) {
    const names = [...new Set(report.chips.flatMap((chip) => chip.levels))];
    level.append(element("option", { value: "", textContent: "the external memory" }), ...names.map((name) => element("option", { value: name, textContent: shown(name) })));
  }
}

function sync(changes) {
  if ("chip" in changes) byId("chip").value = String(state.chip);
  if ("by" in changes) byId("by").value = state.by;
  if (["chip", "module", "look"].some((name) => name in changes)) drawTrail();
  if (!("view" in changes || "metric" in changes || "level" in changes)) drawTable();
  drawPlots(changes);
}

async function start() {
  try {
    await unpack();
    if (!report.chips.length) throw new Error("it holds no chip");
    wire();
    follow(sync);
    choose({ chip: 0, look: null, ...report.start });
    document.body.dataset.ready = "true";
  } catch (error) {
    const broken = byId("broken");
    broken.textContent = `The plots and the table cannot be shown: ${error.message}. They need a browser of 2023 or later.`;
    broken.hidden = false;
    throw error;
  }
}

start();
