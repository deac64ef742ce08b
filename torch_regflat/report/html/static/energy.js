// Energy of the chosen module on every chip, by part and by operand of the external memory.
function drawEnergy() {
  return Promise.all([bars("energy", parts(), partColours()), bars("operands", operands(), operandColours())]);
}

const linkNames = () => [...new Set(report.chips.flatMap((chip) => chip.links))];

// Memory levels from the engines outwards, links, then the rest.
function partNames() {
  const names = [...new Set(report.chips.flatMap((chip) => chip.levels))];
  const last = report.chips.map((chip) => chip.external);
  return [...names.filter((name) => !last.includes(name)), ...names.filter((name) => last.includes(name)), ...linkNames(), "compute", "static", "other"];
}

// Name -> joules a chip.
function parts() {
  const found = new Map(partNames().map((name) => [name, report.chips.map(() => 0)]));
  report.chips.forEach((chip, c) => {
    for (const [name, column] of Object.entries(chip.rows.op.parts)) {
      found.get(name)[c] = chosenSum(chip, column);
    }
  });
  return found;
}

function operands() {
  const found = new Map();
  report.chips.forEach((chip, c) => {
    for (const [path, roles] of Object.entries(chip.operands)) {
      if (!within(path, state.module)) continue;
      for (const [role, joules] of Object.entries(roles)) {
        if (!found.has(role)) found.set(role, report.chips.map(() => 0));
        found.get(role)[c] += joules;
      }
    }
  });
  return found;
}

// Memories from dark to light in the order of the levels; arithmetic apart from them; the rest in grey.
function partColours() {
  const names = [...new Set(report.chips.flatMap((chip) => chip.levels))];
  const last = report.chips.map((chip) => chip.external);
  const inner = names.filter((name) => !last.includes(name));
  const colours = new Map(inner.map((name, i) => [name, look().inner[Math.min(i, look().inner.length - 1)]]));
  names.filter((name) => last.includes(name)).forEach((name) => colours.set(name, look().palette[1]));
  linkNames().forEach((name) => colours.set(name, look().palette[2]));
  return colours.set("compute", look().palette[4]).set("static", look().grey[0]).set("other", look().grey[1]);
}

function operandColours() {
  return new Map(["weight", "activation", "kv_cache", "state"].map((role, i) => [role, look().palette[i]]));
}

function bars(id, found, colours) {
  const most = report.chips.map((_, c) => [...found.values()].reduce((sum, values) => sum + values[c], 0));
  const scale = unitFor(Math.max(...most, 0), "J");
  const traces = [...found].filter(([, values]) => values.some((value) => value > 0)).map(([name, values]) => ({
    type: "bar", orientation: "h", name: plain(name.replaceAll("_", " ")), y: report.chips.map((chip) => plain(chip.name)), x: values.map((value) => value / scale.factor),
    text: values.map((value, c) => `${plain(name.replaceAll("_", " "))} on ${plain(report.chips[c].name)}: ${si(value, "J")}, ${percent(most[c] ? value / most[c] : 0)} %`),
    hoverinfo: "text", textposition: "none",
    marker: { color: colours.get(name) || look().grey[0], line: { width: 1, color: look().panel }, pattern: { shape: name === "other" ? "/" : "", fgcolor: look().panel, fillmode: "overlay", size: 6 } },
  }));
  const layout = {
    ...baseLayout(), ...legendAbove(id, traces.map((trace) => trace.name), 48 + 48 * report.chips.length), barmode: "stack", bargap: 0.35,
    xaxis: axis(`energy, ${scale.unit}`),
    yaxis: { ...axis(""), autorange: "reversed", automargin: true, fixedrange: true, ticksuffix: " " },
  };
  return draw(id, traces, layout);
}
