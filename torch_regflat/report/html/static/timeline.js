// Kernels in time, a track a chip, coloured by what bounds them.
function drawTimeline() {
  const longest = report.chips.reduce((high, chip) => Math.max(high, chip.latency), 0);
  const scale = unitFor(longest, "s");
  const traces = new Map();
  const dim = new Map();
  const colours = boundColours();
  report.chips.forEach((chip, c) => {
    const kernels = chip.kernels;
    const chosen = chosenKernels(chip);
    for (let i = 0; i < kernels.start.length; i++) {
      const into = chosen[i] ? traces : dim;
      const bound = kernels.bound[i];
      if (!into.has(bound)) into.set(bound, { x: [], y: [], text: [], customdata: [] });
      const trace = into.get(bound);
      const begin = kernels.start[i] / scale.factor;
      const end = (kernels.start[i] + kernels.latency[i]) / scale.factor;
      const said = `${plain(`${kernels.path[i] || TOP}: ${kernels.name[i]}`)}<br>${si(kernels.latency[i], "s")} at ${si(kernels.start[i], "s")}, ${plain(bound)}`;
      const at = [c, i];
      trace.x.push(begin, (begin + end) / 2, end, null);
      trace.y.push(c, c, c, null);
      trace.text.push(said, said, said, "");
      trace.customdata.push(at, at, at, null);
    }
  });
  const line = (faint) => ([bound, trace]) => ({
    type: "scatter", mode: "lines", name: plain(bound), legendgroup: bound, showlegend: !faint, hoverinfo: "text", ...trace,
    line: { width: 26, color: colours.get(bound), simplify: false }, opacity: faint ? 0.15 : 1,
  });
  const layout = {
    ...baseLayout(), ...legendAbove("timeline", [...traces.keys()], 56 + 62 * report.chips.length), hovermode: "closest", dragmode: "zoom",
    xaxis: { ...axis(`time, ${scale.unit}`), range: [0, longest / scale.factor] },
    yaxis: { ...axis(""), range: [report.chips.length - 0.5, -0.75], fixedrange: true, showticklabels: false, showgrid: false, zeroline: false },
    annotations: report.chips.map((chip, c) => ({
      text: plain(chip.name), x: 0, xref: "paper", xanchor: "left", y: c - 0.28, yanchor: "bottom", showarrow: false, font: { size: 12, color: look().text },
    })),
  };
  const ranked = (found) => [...colours.keys()].filter((bound) => found.has(bound)).map((bound) => [bound, found.get(bound)]);
  const all = [...ranked(dim).map(line(true)), ...ranked(traces).map(line(false))];
  return draw("timeline", all, layout).then((plot) => clickable(plot));
}
