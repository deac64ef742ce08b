// Numbers and names as they are shown.
const PREFIXES = { "-15": "f", "-12": "p", "-9": "n", "-6": "µ", "-3": "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E" };
const UNITS = { latency: "s", energy: "J", bytes: "B", flops: "FLOP" };
const TOP = "(top level)";

function exponent(value) {
  if (!value) return 0;
  return Math.max(-15, Math.min(18, 3 * Math.floor(Math.log10(Math.abs(value) * 1.0005) / 3)));
}

// One unit for many values: what to divide by, and its name.
function unitFor(most, unit) {
  const power = exponent(most);
  return { factor: 10 ** power, unit: PREFIXES[power] + unit };
}

function digits(value) {
  if (!value) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return value.toFixed(0);
  if (size < 0.001) return "<0.001";
  return size >= 100 ? value.toFixed(1) : size >= 10 ? value.toFixed(2) : value.toFixed(3);
}

function si(value, unit) {
  const scale = unitFor(value, unit);
  return `${value ? (value / scale.factor).toPrecision(3) : 0} ${scale.unit}`;
}

function percent(fraction) {
  const value = 100 * fraction;
  if (value > 0 && value < 0.05) return "<0.1";
  return value >= 99.95 ? "100" : value.toFixed(1);
}

// Plotly reads a little HTML in its texts.
const SAFE = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
function plain(text) {
  return shown(text).replace(/[&<>]/g, (c) => SAFE[c]);
}

// Names with control characters written out, and not without end.
function shown(text, longest = 200) {
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return clean.length > longest ? `${clean.slice(0, longest - 1)}…` : clean;
}

function operatorName(target) {
  return target.replace(/^aten\./, "").replace(/\.default$/, "");
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
