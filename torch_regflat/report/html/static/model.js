// The data, what is chosen, and who wants to know.
const byId = (id) => document.getElementById(id);
const state = { chip: 0, module: "", metric: "latency", by: "layer", sort: null, down: true, filter: "", rows: 100, level: "", view: null };
const followers = [];
let report = null;

function follow(follower) {
  followers.push(follower);
}

function choose(changes) {
  Object.assign(state, changes);
  for (const follower of followers) follower(changes);
}

async function unpack() {
  const text = byId("data").textContent.trim();
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  report = await new Response(stream).json();
  for (const chip of report.chips) prepare(chip);
}

// What bounds a kernel, in words that are the same on all chips: their external memories have different names.
function boundClass(chip, bound) {
  const names = new Set(report.chips.map((other) => other.external));
  return names.size > 1 && chip.external ? bound.replace(chip.external, "external memory") : bound;
}

// Texts in place of their indices, and an operator's row cut into module and operator.
function prepare(chip) {
  const texts = (indices) => indices.map((index) => report.texts[index]);
  for (const rows of Object.values(chip.rows)) {
    rows.path = texts(rows.path);
    rows.bound = texts(rows.bound);
    rows.shapes = texts(rows.shapes);
    rows.module = rows.path;
  }
  const operators = chip.rows.op;
  const cut = operators.path.map((path) => path.lastIndexOf("  "));
  operators.module = operators.path.map((path, i) => (cut[i] < 0 ? "" : path.slice(0, cut[i])));
  operators.target = operators.path.map((path, i) => (cut[i] < 0 ? path : path.slice(cut[i] + 2)));
  const kernels = chip.kernels;
  for (const name of ["path", "name", "bound", "dtype"]) kernels[name] = texts(kernels[name]);
  kernels.sets = kernels.sets.map(texts);
  kernels.group = kernels.bound.map((bound) => boundClass(chip, bound));
  operators.group = operators.bound.map((bound) => boundClass(chip, bound));
  let now = 0;
  kernels.start = kernels.gap.map((gap, i) => {
    const start = now + gap;
    now = start + kernels.latency[i];
    return start;
  });
  if (chip.line) {
    chip.line.cause = texts(chip.line.cause);
    for (const name of ["what", "cause"]) chip.line.moved[name] = texts(chip.line.moved[name]);
  }
}

function within(path, module) {
  return module === "" || path === module || path.startsWith(`${module}.`);
}

// Whether each kernel has a part in the chosen module.
function chosenKernels(chip) {
  const sets = chip.kernels.sets.map((paths) => paths.some((path) => within(path, state.module)));
  return chip.kernels.modules.map((set) => sets[set]);
}

// The collapsed module of a kernel: its first part's.
function moduleOf(chip, kernel) {
  return chip.kernels.sets[chip.kernels.modules[kernel]][0];
}

// The sum of a column of the operators' rows within the chosen module.
function chosenSum(chip, column) {
  const modules = chip.rows.op.module;
  return column.reduce((sum, value, i) => (within(modules[i], state.module) ? sum + value : sum), 0);
}
