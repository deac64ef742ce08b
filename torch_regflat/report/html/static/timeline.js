// Kernels in time on every chip, coloured by what bounds them; below them waits of the engines, and transfers.
const LOWER = [["wait", 0.28], ["load", 0.36], ["store", 0.44], ["write-back", 0.52], ["exchange", 0.6]];

// Lines of one colour, each from begin to end, with what is said of it and the kernel it belongs to.
class Strokes {
  constructor() {
    this.x = [];
    this.y = [];
    this.text = [];
    this.customdata = [];
  }

  add(begin, end, y, said, at) {
    this.x.push(begin, (begin + end) / 2, end, null);
    this.y.push(y, y, y, null);
    this.text.push(said, said, said, "");
    this.customdata.push(at, at, at, null);
  }
}

const longestRun = () => report.chips.reduce((high, chip) => Math.max(high, chip.latency), 0);
// What is seen of the time line, in seconds.
const view = () => state.view || [0, longestRun()];
const inView = (begin, end) => end >= view()[0] && begin <= view()[1];

// Kernels that are shorter together are drawn as one, as the longest of them, until one looks closer; 0 draws each.
function finest() {
  const count = report.chips.reduce((sum, chip) => sum + chip.kernels.start.length, 0);
  return count > 6000 ? (view()[1] - view()[0]) / 1500 : 0;
}

// What is said of a kernel on the time line.
function saidOf(chip, i, more) {
  const kernels = chip.kernels;
  return `${plain(`${kernels.path[i] || TOP}: ${kernels.name[i]}`)}<br>${more}`;
}

function kernelStrokes(strokes, c, factor) {
  const chip = report.chips[c];
  const { start, latency, bound, group } = chip.kernels;
  const chosen = chosenKernels(chip);
  const least = finest();
  for (let i = 0; i < start.length; i++) {
    const first = i;
    let longest = i;
    while (i + 1 < start.length && chosen[first] === chosen[i + 1] && start[i + 1] + latency[i + 1] - start[first] < least) {
      i++;
      if (latency[i] > latency[longest]) longest = i;
    }
    const end = start[i] + latency[i];
    if (!inView(start[first], end)) continue;
    const more = i > first ? ` and ${i - first} more` : "";
    const said = saidOf(chip, longest, `${si(latency[longest], "s")} at ${si(start[longest], "s")}, ${plain(bound[longest])}${more}`);
    strokes(group[longest], chosen[first], 24).add(start[first] / factor, end / factor, c, said, [c, longest]);
  }
}

function lowerStrokes(strokes, c, factor) {
  const chip = report.chips[c];
  if (!chip.line) return;
  const { wait, cause, moved } = chip.line;
  const { start, latency } = chip.kernels;
  const least = finest();
  const chosen = chosenKernels(chip);
  const shift = Object.fromEntries(LOWER);
  for (let i = 0; i < wait.length; i++) {
    const end = start[i] + latency[i];
    const at = cause[i] === "launch" ? [start[i], start[i] + wait[i]] : [end - wait[i], end];
    if (wait[i] <= least / 4 || !inView(...at)) continue;
    const said = saidOf(chip, i, `engines wait ${si(wait[i], "s")}, mostly for ${plain(cause[i])}`);
    strokes("wait", chosen[i], 5).add(at[0] / factor, at[1] / factor, c + shift.wait, said, [c, i]);
  }
  for (let t = 0; t < moved.kernel.length; t++) {
    const i = moved.kernel[t];
    const begin = start[i] + moved.after[t];
    if (moved.lasts[t] <= least / 4 || !inView(begin, begin + moved.lasts[t])) continue;
    const late = moved.cause[t] ? `, waited for ${plain(moved.cause[t])}` : "";
    const said = saidOf(chip, i, `${plain(moved.what[t])} of ${si(moved.bytes[t], "B")} at ${si(Math.max(begin, 0), "s")} for ${si(moved.lasts[t], "s")}${late}`);
    strokes(moved.what[t], chosen[i], 5).add(begin / factor, (begin + moved.lasts[t]) / factor, c + (shift[moved.what[t]] || 0.4), said, [c, i]);
  }
}

function timelineTraces(factor) {
  const found = new Map();
  const strokes = (name, bright, width) => {
    const key = `${bright} ${name}`;
    if (!found.has(key)) found.set(key, { name, bright, width, strokes: new Strokes() });
    return found.get(key).strokes;
  };
  report.chips.forEach((_, c) => {
    kernelStrokes(strokes, c, factor);
    lowerStrokes(strokes, c, factor);
  });
  const bounds = boundColours();
  const colours = new Map([...bounds, ...LOWER.map(([name], i) => [name, look().below[i]])]);
  const order = [...colours.keys()];
  const groups = [...found.values()].sort((a, b) => a.bright - b.bright || order.indexOf(a.name) - order.indexOf(b.name));
  return groups.map((group) => ({
    type: "scatter", mode: "lines", name: plain(group.name), showlegend: group.bright, hoverinfo: "text", ...group.strokes,
    line: { width: group.width, color: colours.get(group.name), simplify: false }, opacity: group.bright ? 1 : 0.15,
  }));
}

function drawTimeline() {
  const scale = unitFor(longestRun(), "s");
  const traces = timelineTraces(scale.factor);
  const legend = traces.filter((trace) => trace.showlegend).map((trace) => trace.name);
  const layout = {
    ...baseLayout(), ...legendAbove("timeline", legend, 56 + 90 * report.chips.length), hovermode: "closest", dragmode: "zoom",
    xaxis: { ...axis(`time, ${scale.unit}`), range: view().map((time) => time / scale.factor) },
    yaxis: { ...axis(""), range: [report.chips.length - 0.25, -0.5], fixedrange: true, showticklabels: false, showgrid: false, zeroline: false },
    annotations: report.chips.map((chip, c) => ({
      text: plain(chip.name + waited(chip)), x: 0, xref: "paper", xanchor: "left", y: c - 0.16, yanchor: "bottom", showarrow: false, font: { size: 12, color: look().text },
    })),
  };
  return draw("timeline", traces, layout).then((plot) => {
    clickable(plot);
    if (plot.zoomable) return;
    plot.zoomable = true;
    plot.on("plotly_relayout", (event) => {
      const range = [event["xaxis.range[0]"], event["xaxis.range[1]"]];
      if (range[0] !== undefined) choose({ view: range.map((time) => time * scale.factor) });
    });
    plot.on("plotly_doubleclick", () => {
      choose({ view: null });
      return false;
    });
  });
}

// What the engines of a chip waited for, over the whole run.
function waited(chip) {
  if (!chip.line) return "";
  const total = chip.line.computing + Object.values(chip.line.stalls).reduce((sum, seconds) => sum + seconds, 0);
  const causes = Object.entries(chip.line.stalls).sort((a, b) => b[1] - a[1]).slice(0, byId("timeline").clientWidth < 520 ? 1 : 2);
  const listed = causes.map(([cause, seconds]) => `${percent(seconds / total)} % ${cause}`).join(", ");
  return listed ? `: waits ${listed}` : "";
}
