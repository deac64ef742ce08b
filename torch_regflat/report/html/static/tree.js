// The tree map of modules.
const LEAF = "\u0000";

function treeOf(chip) {
  const nodes = new Map([["", { id: "", label: report.model, parent: null, value: 0, bounds: {}, children: 0, own: false }]]);
  const add = (id, label, parent) => {
    if (!nodes.has(id)) {
      nodes.set(id, { id, label, parent, value: 0, bounds: {}, children: 0, own: false });
      nodes.get(parent).children++;
    }
    return nodes.get(id);
  };
  const rows = chip.rows.op;
  rows.module.forEach((module, i) => {
    let at = "";
    const chain = [nodes.get("")];
    for (const name of module === "" ? [] : module.split(".")) {
      const id = at === "" ? name : `${at}.${name}`;
      chain.push(add(id, name, at));
      at = id;
    }
    const leaf = add(at + LEAF + rows.target[i], operatorName(rows.target[i]), at);
    leaf.value = rows[state.metric][i];
    leaf.own = true;
    for (const node of [...chain, leaf]) {
      node.bounds[rows.group[i]] = (node.bounds[rows.group[i]] || 0) + rows.latency[i];
      if (node !== leaf) node.value += leaf.value;
    }
  });
  return shownNodes(joined(nodes));
}

// A module with a single child and nothing of its own is shown as one with it: model.layers.*
function joined(nodes) {
  for (const node of [...nodes.values()].reverse()) {
    if (!nodes.has(node.id) || node.parent === null || node.own) continue;
    let parent = nodes.get(node.parent);
    while (parent.parent !== null && parent.children === 1) {
      node.label = `${parent.label}.${node.label}`;
      node.parent = parent.parent;
      nodes.delete(parent.id);
      parent = nodes.get(node.parent);
    }
  }
  return [...nodes.values()];
}

// The chosen module's node and what is seen of those inside it: four steps down, and not too small to be seen.
function shownNodes(nodes) {
  const root = nodeOf(nodes, state.module);
  const inside = new Map();
  for (const node of nodes) {
    if (!inside.has(node.parent)) inside.set(node.parent, []);
    inside.get(node.parent).push(node);
  }
  const top = nodes.find((node) => node.id === root);
  const found = [{ ...top, parent: null }];
  const least = top.value / 1000;
  const visit = (node, depth) => {
    node.rest = node.value;
    for (const child of depth < 4 ? inside.get(node.id) || [] : []) {
      if (child.value < least) continue;
      node.rest -= child.value;
      found.push(child);
      visit(child, depth + 1);
    }
  };
  visit(found[0], 0);
  return found;
}

// The node that stands for a module: itself, else the first one inside it, for it may be shown as one with that.
function nodeOf(nodes, module) {
  const inside = nodes.filter((node) => !node.id.includes(LEAF) && within(node.id, module));
  inside.sort((a, b) => a.id.length - b.id.length);
  return inside.length ? inside[0].id : "";
}

function drawTree() {
  const chip = report.chips[state.chip];
  const nodes = treeOf(chip);
  const colours = boundColours();
  const total = chip.rows.op[state.metric].reduce((sum, value) => sum + value, 0) || 1;
  const unit = UNITS[state.metric];
  const mainBound = (node) => Object.entries(node.bounds).sort((a, b) => b[1] - a[1])[0]?.[0] ?? "";
  const trace = {
    type: "treemap",
    ids: nodes.map((node) => node.id || "root"),
    labels: nodes.map((node) => plain(node.label)),
    parents: nodes.map((node) => (node.parent === null ? "" : node.parent || "root")),
    values: nodes.map((node) => Math.max(node.rest, 0)),
    customdata: nodes.map((node) => [plain(node.id.replace(LEAF, "  ") || node.label), si(node.value, unit), percent(node.value / total), plain(mainBound(node))]),
    texttemplate: "%{label}<br>%{customdata[2]} %",
    hovertemplate: "%{customdata[0]}<br>%{customdata[1]}, %{customdata[2]} %<br>%{customdata[3]}<extra></extra>",
    branchvalues: "remainder",
    marker: { colors: nodes.map((node) => (node.parent === null ? look().panel : colours.get(mainBound(node)))), line: { width: 1.5, color: look().panel }, pad: { t: 20, l: 3, r: 3, b: 3 } },
    tiling: { packing: "squarify" },
    pathbar: { visible: false },
  };
  const layout = { ...baseLayout(), margin: { l: 0, r: 0, t: 0, b: 0 } };
  return draw("tree", [trace], layout).then((plot) => {
    if (plot.followed) return;
    plot.followed = true;
    plot.on("plotly_treemapclick", (event) => {
      const found = event.points[0];
      const id = found.id === "root" ? "" : found.id;
      const module = id.split(LEAF)[0];
      const back = module !== "" && module === state.module && !id.includes(LEAF);
      choose({ module: back ? module.split(".").slice(0, -1).join(".") : module });
      return false;
    });
  });
}
