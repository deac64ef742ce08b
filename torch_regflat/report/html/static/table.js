// The table of layers: sorted, filtered, within the chosen module.
const COLUMNS = [
  { key: "path", title: "layer", kind: "path" },
  { key: "calls", title: "calls", kind: "count", not: "kernel" },
  { key: "latency", title: "latency", kind: "amount" },
  { key: "spread", title: "±\n%", kind: "text", not: "kernel" },
  { key: "share", title: "share\n%", kind: "share" },
  { key: "versus", title: "of first\nchip", kind: "ratio", not: "kernel" },
  { key: "flops", title: "model", kind: "amount", not: "kernel" },
  { key: "work", title: "executed", kind: "amount", unit: "FLOP", only: "kernel" },
  { key: "utilization", title: "arith.\nutil. %", kind: "percent" },
  { key: "bandwidth", title: "external\nutil. %", kind: "percent", not: "kernel" },
  { key: "bound", title: "bound by", kind: "word" },
  { key: "bytes", title: "external", kind: "amount" },
  { key: "energy", title: "energy", kind: "amount" },
  { key: "shapes", title: "shapes", kind: "word", not: "kernel" },
  { key: "start", title: "start", kind: "amount", unit: "s", only: "kernel" },
];

function rowsOf(chip) {
  if (state.by !== "kernel") return layerRows(chip, chip.rows[state.by]);
  const kernels = chip.kernels;
  const external = kernels.bytes[chip.levels.length - 1] || kernels.latency.map(() => 0);
  const chosen = chosenKernels(chip);
  const rows = [];
  for (let i = 0; i < kernels.path.length; i++) {
    if (!chosen[i]) continue;
    rows.push({
      path: `${kernels.path[i]}  ${kernels.name[i]}`.trimStart(), module: moduleOf(chip, i), latency: kernels.latency[i],
      share: kernels.latency[i] / chip.latency, work: kernels.work[i], utilization: kernels.utilization[i],
      bound: kernels.bound[i], bytes: external[i], energy: kernels.energy[i], start: kernels.start[i],
    });
  }
  return rows;
}

function layerRows(chip, from) {
  const first = state.chip === 0 ? null : report.chips[0].rows[state.by];
  const known = new Map(first ? first.path.map((path, i) => [path, first.latency[i]]) : []);
  const chosen = rowModule(from);
  const rows = [];
  for (let i = 0; i < from.path.length; i++) {
    const module = from.module[i];
    if (!within(module, chosen)) continue;
    const latency = from.latency[i];
    const base = known.get(from.path[i]);
    rows.push({
      path: from.path[i], module, calls: from.calls[i], latency, share: latency / chip.latency, flops: from.flops[i],
      spread: from.spread[i] === null ? null : 100 * from.spread[i],
      versus: base ? latency / base : null, utilization: from.utilization[i], bandwidth: from.bandwidth[i],
      bound: from.bound[i], bytes: from.bytes[i], energy: from.energy[i], shapes: from.shapes[i],
    });
  }
  return rows;
}

// The chosen module; where rows are coarser than it is, the module of the row that it is part of.
function rowModule(from) {
  let module = state.module;
  while (module && !from.module.some((path) => within(path, module))) module = module.split(".").slice(0, -1).join(".");
  return module;
}

function filtered(rows) {
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return rows;
  return rows.filter((row) => {
    const text = `${row.path || TOP} ${row.bound} ${row.shapes || ""}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

function sorted(rows) {
  if (!state.sort) return rows;
  const key = state.sort;
  const order = state.down ? -1 : 1;
  const compare = (a, b) => (typeof a === "string" ? (a < b ? -1 : a > b ? 1 : 0) : (a ?? -1) - (b ?? -1));
  return [...rows].sort((a, b) => order * compare(a[key], b[key]));
}

function columnsShown() {
  const several = report.chips.length > 1 && state.chip > 0;
  const hidden = (column) => column.not === state.by || (column.only && column.only !== state.by);
  return COLUMNS.filter((column) => !hidden(column) && (column.key !== "versus" || several));
}

function drawTable() {
  const chip = report.chips[state.chip];
  const rows = sorted(filtered(rowsOf(chip)));
  const columns = columnsShown().map((column) => {
    if (column.kind !== "amount") return column;
    const most = rows.reduce((high, row) => Math.max(high, row[column.key]), 0);
    return { ...column, scale: unitFor(most, column.unit || UNITS[column.key]) };
  });
  const table = byId("table");
  table.tHead.replaceChildren(headRow(columns, chip));
  table.tBodies[0].replaceChildren(...rows.slice(0, state.rows).map((row) => bodyRow(columns, row)));
  table.tFoot.replaceChildren(footRow(columns, rows));
  const left = rows.length - state.rows;
  byId("count").textContent = left > 0 ? `${state.rows} of ${rows.length} rows` : `${rows.length} ${rows.length === 1 ? "row" : "rows"}`;
  byId("more").hidden = left <= 0;
}

function headRow(columns, chip) {
  const cells = columns.map((column) => {
    const unit = column.scale ? `\n${column.scale.unit}` : "";
    const title = column.key === "bytes" ? chip.external || column.title : column.title;
    const button = element("button", { type: "button", textContent: title + unit });
    button.dataset.sort = column.key;
    button.addEventListener("click", () => {
      const again = state.sort === column.key;
      choose({ sort: column.key, down: again ? !state.down : column.kind !== "path" && column.kind !== "word" });
      byId("table").querySelector(`[data-sort="${column.key}"]`).focus();
    });
    const cell = element("th", { scope: "col", className: isNumber(column) ? "number" : "" }, button);
    if (state.sort === column.key) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    return cell;
  });
  return element("tr", {}, ...cells);
}

function isNumber(column) {
  return column.kind !== "path" && column.kind !== "word";
}

function bodyRow(columns, row) {
  const line = element("tr", {}, ...columns.map((column) => bodyCell(column, row)));
  if (state.module && within(row.module, state.module)) line.className = "chosen";
  return line;
}

function bodyCell(column, row) {
  if (column.kind === "path") {
    const button = element("button", { type: "button", textContent: shown(row.path) || TOP });
    button.dataset.module = row.module;
    button.addEventListener("click", () => choose({ module: row.module }));
    return element("th", { scope: "row" }, button);
  }
  const cell = element("td", { textContent: cellText(column, row[column.key]), className: isNumber(column) ? "number" : "" });
  if (column.kind === "share") {
    cell.classList.add("share");
    cell.style.setProperty("--share", `${(100 * row.share).toFixed(1)}%`);
  }
  return cell;
}

function cellText(column, value) {
  if (value === null || value === undefined) return "";
  if (column.kind === "amount") return digits(value / column.scale.factor);
  if (column.kind === "share" || column.kind === "percent") return percent(value);
  if (column.kind === "ratio") return `${value.toPrecision(3)}x`;
  if (column.kind === "text") return value < 9.5 ? value.toFixed(1) : value.toFixed(0);
  return column.kind === "word" ? shown(String(value)) : String(value);
}

const ADDED = ["latency", "share", "flops", "work", "bytes", "energy"];
function footRow(columns, rows) {
  const cells = columns.map((column) => {
    if (column.kind === "path") return element("th", { scope: "row", textContent: "sum of these rows" });
    if (!ADDED.includes(column.key)) return element("td");
    const sum = rows.reduce((total, row) => total + row[column.key], 0);
    return element("td", { className: "number", textContent: cellText(column, sum) });
  });
  return element("tr", {}, ...cells);
}
