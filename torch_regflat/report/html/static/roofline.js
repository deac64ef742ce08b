// Every kernel on every chip, under the ceilings of its chip.
const MARKS = ["circle", "diamond", "square", "triangle-up", "cross", "star"];

function levelIndex(chip) {
  return state.level === "" ? chip.levels.length - 1 : chip.levels.indexOf(state.level);
}

// Kernels that lie at the same place are one point: [x, y, latency, count, index of the first].
function pointsOf(chip) {
  const level = levelIndex(chip);
  const points = new Map();
  const hidden = { count: 0, latency: 0 };
  if (level < 0) return { points: [], hidden: { count: chip.kernels.path.length, latency: chip.latency } };
  const { latency, work, bytes, name } = chip.kernels;
  const chosen = chosenKernels(chip);
  const many = latency.length > 3000;
  const place = (value) => Math.round(Math.log10(value) * (many ? 16 : 100));
  for (let i = 0; i < latency.length; i++) {
    const moved = bytes[level][i];
    if (!work[i] || !moved || !latency[i]) {
      hidden.count++;
      hidden.latency += latency[i];
      continue;
    }
    const x = work[i] / moved;
    const y = work[i] / latency[i];
    const key = `${place(x)} ${place(y)} ${many ? "" : name[i]} ${chosen[i]}`;
    const point = points.get(key);
    if (point) {
      point.latency += latency[i];
      point.count++;
    } else points.set(key, { x, y, latency: latency[i], count: 1, kernel: i, chosen: chosen[i] });
  }
  return { points: [...points.values()], hidden };
}

function ceilings() {
  const lines = [];
  const add = (line) => {
    const same = lines.find((other) => other.slope === line.slope && other.name === line.name && Math.abs(other.value / line.value - 1) < 0.02);
    if (same) same.chips.push(...line.chips);
    else lines.push(line);
  };
  report.chips.forEach((chip, c) => {
    chip.levels.forEach((name, i) => {
      if (chip.bandwidths[i]) add({ slope: true, value: chip.bandwidths[i], name, chips: [c], main: i === levelIndex(chip) });
    });
    Object.entries(chip.peaks).forEach(([name, value], i) => add({ slope: false, value, name, chips: [c], main: true, order: i }));
  });
  return lines;
}

function ceilingTraces(range, narrow) {
  const [low, high] = range;
  return ceilings().flatMap((line) => {
    const top = Math.max(...line.chips.flatMap((c) => Object.values(report.chips[c].peaks)), 1);
    const end = line.slope ? Math.min(high, top / line.value) : high;
    if (end <= low) return [];
    const who = line.chips.map((c) => report.chips[c].name).join(", ");
    const label = `${line.name} ${si(line.value, line.slope ? "B/s" : "FLOP/s")}`;
    // Names of the chosen chip's ceilings; those of the others are said when pointed at.
    const said = !line.chips.includes(state.chip) ? "" : plain(narrow || line.chips.length > 1 || report.chips.length === 1 ? label : `${label}, ${who}`);
    const at = low * (end / low) ** (line.slope ? 0.5 : [0.3, 0.55, 0.05][line.order % 3]); // peaks may lie close together
    return [{
      type: "scatter", mode: "lines+text", showlegend: false, hoverinfo: "text",
      x: [low, at, end], y: [low, at, end].map((x) => (line.slope ? x * line.value : line.value)),
      text: line.slope ? [said, "", ""] : ["", said, ""], hovertext: plain(`${who}: ${label}`),
      textposition: "top right", textfont: { size: 10, color: look().quiet },
      line: { width: line.main ? 1.8 : 1, dash: line.slope ? (line.main ? "solid" : "dot") : "dash", color: line.chips.length === 1 ? look().chips[line.chips[0] % 6] : look().quiet },
    }];
  });
}

function kernelTraces(found, most) {
  return report.chips.flatMap((chip, c) => [false, true].map((chosen) => {
    const points = found[c].points.filter((point) => point.chosen === chosen);
    return {
      type: "scatter", mode: "markers", name: plain(chip.name), legendgroup: `${c}`, showlegend: chosen,
      x: points.map((point) => point.x), y: points.map((point) => point.y),
      customdata: points.map((point) => [c, point.kernel]),
      text: points.map((point) => {
        const kernels = chip.kernels;
        const others = point.count > 1 ? ` and ${point.count - 1} beside it` : "";
        return `${plain(`${kernels.path[point.kernel] || TOP}: ${kernels.name[point.kernel]}`)}${others}<br>${plain(chip.name)}, ` +
          `${si(point.latency, "s")}, ${plain(kernels.bound[point.kernel])}<br>${si(point.y, "FLOP/s")} at ${point.x.toPrecision(3)} FLOP/B`;
      }),
      hoverinfo: "text",
      marker: {
        symbol: MARKS[c % MARKS.length], color: look().chips[c % 6], opacity: chosen ? 0.8 : 0.12,
        size: points.map((point) => 5 + 22 * Math.sqrt(point.latency / most)), line: { width: 1, color: look().panel },
      },
    };
  }));
}

// From below the kernels that take a thousandth of the time or more, up to above the highest peak.
function rateRange(points, low) {
  const total = points.reduce((sum, point) => sum + point.latency, 0);
  const rates = points.filter((point) => point.latency >= total / 1000).map((point) => point.y);
  const slopes = report.chips.map((chip) => low * chip.bandwidths[chip.bandwidths.length - 1]).filter(Boolean);
  const peaks = report.chips.flatMap((chip) => Object.values(chip.peaks));
  const least = [...rates, ...slopes].reduce((a, b) => Math.min(a, b), Infinity);
  const most = [...rates, ...peaks].reduce((a, b) => Math.max(a, b), 0);
  return most ? [least / 3, most * 3] : [1, 10];
}

function drawRoofline() {
  const found = report.chips.map(pointsOf);
  const points = found.flatMap((one) => one.points);
  const most = points.reduce((high, point) => Math.max(high, point.latency), 0) || 1;
  const extreme = (pick, which, start) => points.reduce((best, point) => which(best, pick(point)), start);
  const low = points.length ? extreme((p) => p.x, Math.min, Infinity) / 3 : 0.1;
  const high = points.length ? Math.max(extreme((p) => p.x, Math.max, 0) * 3, low * 1000) : 1000;
  const narrow = byId("roofline").clientWidth < 520;
  const layout = {
    ...baseLayout(), hovermode: "closest", showlegend: report.chips.length > 1,
    legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", itemsizing: "constant" }, margin: { l: 62, r: 10, t: 26, b: 44 },
    xaxis: { ...axis("operations / byte"), type: "log", range: [Math.log10(low), Math.log10(high)], tickformat: "~g", dtick: 1 },
    yaxis: { ...axis("operations / s"), type: "log", tickformat: "~s", dtick: 1, range: rateRange(points, low).map(Math.log10) },
  };
  const missing = found.map((one, c) => (one.hidden.count ? `${one.hidden.count} (${percent(one.hidden.latency / report.chips[c].latency)} % of the time) on ${report.chips[c].name}` : ""));
  const listed = missing.filter(Boolean).join(", ");
  byId("unplotted").textContent = "Area of a mark: its time." + (listed ? ` Not drawn, for they do no arithmetic or move nothing there: ${listed}.` : "");
  return draw("roofline", [...ceilingTraces([low, high], narrow), ...kernelTraces(found, most)], layout).then((plot) => clickable(plot));
}

// A click on a kernel chooses its module.
function clickable(plot) {
  if (plot.followed) return;
  plot.followed = true;
  plot.on("plotly_click", (event) => {
    const at = event.points.find((point) => point.customdata)?.customdata;
    if (at) choose({ module: moduleOf(report.chips[at[0]], at[1]), chip: at[0] });
  });
}
