// The front end of widget.py: draws a labelling, and sends what is clicked and pressed to Python, which does it.
// Text, such as names of files, is set as text, never as HTML.

const HELP =
  "Click on background: add · on a particle: select (Shift: several) · drag: add by a box (Shift: over others) · " +
  "wheel: zoom · right drag: move, 0: all of the image · x: remove · m: merge · s: split · f: refine · u: undo · " +
  "r: redo · o: outlines · n: numbers · a: accept · Ctrl+S: save · Esc: cancel";
const TOOLS = {
  "": () => "",
  merge: () => "Merge: click on the other pieces, then Enter.",
  split: (id) => `Split ${id}: click on a point in each part, then Enter.`,
  refine: (id) => `Refine ${id}: click on what it lacks, or on what of it is too much, then Enter.`,
};
const DONE = {
  add: "added", remove: "removed", merge: "merged into", split: "split into", refine: "refined", undo: "undone",
  redo: "done again", accept: "accepted",
};
const BUTTONS = [ // what it does, its text, its key; a gap
  ["remove", "Remove", "x"], ["merge", "Merge", "m"], ["split", "Split", "s"], ["refine", "Refine", "f"],
  ["apply", "Apply", "Enter"], ["cancel", "Cancel", "Esc"], null, ["undo", "Undo", "u"], ["redo", "Redo", "r"], null,
  ["outlines", "Outlines", "o"], ["numbers", "Numbers", "n"], ["whole", "Whole image", "0"], null,
  ["accept", "Accept", "a"], ["save", "Save", "Ctrl+S"],
];
const KEYS = {
  x: "remove", Delete: "remove", Backspace: "remove", m: "merge", s: "split", f: "refine", u: "undo", r: "redo",
  o: "outlines", n: "numbers", 0: "whole", a: "accept", Enter: "apply", Escape: "cancel",
};
const SELECTED = [255, 0, 170]; // unlike all of plots.OUTLINES
const STYLE = `
.lorasam-label { color: var(--jp-ui-font-color1, #222); background: var(--jp-layout-color1, #fff); max-width: 100%;
  font: 13px/1.4 var(--jp-ui-font-family, system-ui, sans-serif); container-type: inline-size; }
.lorasam-label .tools { display: flex; flex-wrap: wrap; gap: 4px; padding: 4px 0; }
.lorasam-label .gap { width: 8px; }
.lorasam-label button { font: inherit; color: inherit; padding: 3px 8px; border-radius: 4px; cursor: pointer;
  background: var(--jp-layout-color2, #f3f3f3); border: 1px solid var(--jp-border-color1, #bbb); }
.lorasam-label button:disabled { opacity: 0.45; cursor: default; }
.lorasam-label button[aria-pressed="true"] { background: #0072b2; border-color: #0072b2; color: #fff; }
.lorasam-label canvas { display: block; width: 100%; background: #222; touch-action: none; outline-offset: 1px; }
.lorasam-label canvas:focus-visible { outline: 2px solid #0072b2; }
.lorasam-label .line { display: flex; flex-wrap: wrap; align-content: start; gap: 0 14px; height: 2.8em; overflow: auto; }
.lorasam-label .tool { font-weight: 600; }
.lorasam-label .problem { color: var(--jp-error-color0, #b00020); font-weight: 600; }
.lorasam-label .help { color: var(--jp-ui-font-color2, #555); font-size: 12px; padding-top: 4px; }
@container (max-width: 480px) { .lorasam-label button { padding: 7px 10px; } .lorasam-label .line { height: 5.6em; } }
`;

function element(tag, parent, name = "", text = "") {
  const made = parent.appendChild(document.createElement(tag));
  made.className = name;
  made.textContent = text;
  return made;
}

async function inflated(buffer) {
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint32Array(await new Response(stream).arrayBuffer());
}

class View {
  constructor(model, el) {
    Object.assign(this, {
      model, image: null, labels: null, width: 0, height: 0, found: new Map(), colors: [], outlines: true,
      numbers: true, scale: 1, left: 0, top: 0, fitted: true, line: 0, selected: new Set(), tool: "", inside: [],
      outside: [], pointers: new Map(), drag: null, waiting: new Map(), count: 0, arrived: Promise.resolve(),
      view: Math.random().toString(36), // of one widget there may be several
    });
    const root = (this.root = element("div", el, "lorasam-label"));
    element("style", root, "", STYLE);
    this.buttons = {};
    const tools = element("div", root, "tools");
    for (const button of BUTTONS) {
      if (!button) {
        element("span", tools, "gap");
        continue;
      }
      const [what, text, key] = button;
      this.buttons[what] = element("button", tools, "", text);
      this.buttons[what].type = "button";
      this.buttons[what].title = `${text} (${key})`;
      this.buttons[what].onclick = () => {
        this.act(what);
        this.canvas.focus({ preventScroll: true });
      };
    }
    const line = element("div", root, "line");
    line.setAttribute("role", "status");
    this.name = element("span", line, "name");
    this.state = element("span", line, "state");
    this.said = element("span", line, "said", "Waiting for the kernel; if it was restarted, run the cell again.");
    this.toolLine = element("span", line, "tool");
    this.canvas = element("canvas", root);
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    element("div", root, "help", HELP);
    for (const one of [this.canvas, ...Object.values(this.buttons)]) { // what may have the focus
      one.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own, by which x cuts a cell
    }
    this.layer = document.createElement("canvas"); // outlines, a pixel for one of the image
    this.marks = document.createElement("canvas"); // the selected particles, likewise
    this.listen();
    this.heard = (message, buffers) => {
      this.arrived = this.arrived.then(() => this.hear(message, buffers)).catch((error) => this.say(`${error}`, true));
    };
    model.on("msg:custom", this.heard);
    this.send("show");
    this.tell();
  }

  // ---------------------------------------------------------------------------------------------- to and from Python
  send(action, given = [], named = {}, points = []) {
    this.count += 1;
    if (action !== "show") this.waiting.set(this.count, points);
    this.model.send({ action, given, named, number: this.count, view: this.view });
    this.tell();
    this.redraw();
  }

  async hear(message, buffers) {
    if (message.picture) {
      const { height, width, colors, name } = message.picture;
      this.image = await createImageBitmap(new Blob([buffers[1]], { type: "image/png" }));
      [this.width, this.height, this.name.textContent] = [width, height, name];
      this.colors = colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
      this.labels = new Uint32Array(width * height);
      for (const canvas of [this.layer, this.marks]) [canvas.width, canvas.height] = [width, height];
      this.resize();
    }
    if (!this.labels) return; // what another view asked for; this one's own answer is to come
    const [y, x, height, width] = message.window;
    if (height) {
      const part = await inflated(buffers[0]);
      for (let row = 0; row < height; row++) {
        this.labels.set(part.subarray(row * width, (row + 1) * width), (y + row) * this.width + x);
      }
      this.find();
      this.outline(y, x, height, width);
    }
    const mine = message.view === this.view && this.waiting.delete(message.number);
    if (message.problem) this.say(message.problem, true);
    else if (message.said) this.say(message.said);
    else if (mine && DONE[message.action]) this.say(`${DONE[message.action]} ${message.made.join(", ")}`.trim());
    if (mine && message.made.length && !this.waiting.size && !this.tool) this.selected = new Set(message.made);
    for (const id of this.selected) if (!this.found.has(id)) this.selected.delete(id);
    if (this.tool && !this.selected.size) this.leave();
    const many = this.found.size === 1 ? "1 particle" : `${this.found.size} particles`;
    this.state.textContent = `${many}${message.accepted ? " · accepted" : ""}${message.saved ? "" : " · not saved"}`;
    this.mark();
    this.tell();
  }

  say(text, problem = false) {
    this.said.textContent = text;
    this.said.className = problem ? "said problem" : "said";
  }

  tell() {
    const ids = [...this.selected];
    const tool = TOOLS[this.tool](ids[0]) || (ids.length ? `Selected: ${ids.join(", ")}` : "");
    this.toolLine.textContent = this.waiting.size ? `${tool} Working …`.trim() : tool;
    for (const name of ["merge", "split", "refine"]) this.buttons[name].ariaPressed = `${this.tool === name}`;
    for (const name of ["outlines", "numbers"]) this.buttons[name].ariaPressed = `${this[name]}`;
    this.buttons.apply.disabled = !this.tool;
    this.buttons.cancel.disabled = !this.tool && !ids.length;
    this.canvas.ariaLabel = `Image with ${this.found.size} outlined particles. ${HELP}`;
    this.redraw();
  }

  // ---------------------------------------------------------------------------------------------- actions
  act(what) {
    const ids = [...this.selected], ofParticles = ["remove", "merge", "split", "refine"].includes(what);
    if (!this.labels) return;
    if (ofParticles && !ids.length) this.say("Select a particle first: click on it.", true);
    else if (["split", "refine"].includes(what) && ids.length > 1) this.say(`Select one particle to ${what} it.`, true);
    else if (what === "remove" || (what === "merge" && ids.length > 1)) {
      this.leave();
      this.send(what, ids);
    } else if (ofParticles) {
      this.leave();
      this.tool = what;
    } else if (what === "outlines" || what === "numbers") this[what] = !this[what];
    else if (what === "whole") this.fit();
    else if (what === "apply") this.apply(ids);
    else if (what === "cancel" && this.tool) this.leave();
    else if (what === "cancel") this.selected.clear();
    else this.send(what);
    this.mark();
    this.tell();
  }

  apply(ids) {
    const { tool, inside, outside } = this;
    if (!tool) return;
    this.leave();
    if (tool === "merge") this.send("merge", ids);
    else if (tool === "split") this.send("split", [ids[0], ...inside], {}, inside);
    else this.send("refine", [ids[0], inside, outside], {}, [...inside, ...outside]);
  }

  leave() {
    [this.tool, this.inside, this.outside] = ["", [], []];
  }

  click([x, y], shift) {
    const id = this.labels[y * this.width + x];
    if (this.tool === "split" || this.tool === "refine") {
      const own = this.selected.has(id);
      if (this.tool === "refine") (own ? this.outside : this.inside).push([x, y]);
      else if (own) this.inside.push([x, y]);
      else this.say("That point does not lie on the particle that is selected.", true);
    } else if (id && (shift || this.tool)) {
      if (!this.selected.delete(id)) this.selected.add(id);
    } else if (id) this.selected = new Set([id]);
    else if (!shift && !this.tool) this.send("add", [[x, y]], {}, [[x, y]]);
    this.mark();
    this.tell();
  }

  // ---------------------------------------------------------------------------------------------- mouse, touch, keys
  listen() {
    const canvas = this.canvas;
    this.root.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode ? 20 : 1;
      this.zoom(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) / 300), ...this.place(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => {
      this.pointers.delete(event.pointerId);
      this.drag = null;
      this.redraw();
    });
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.root);
  }

  key(event) {
    const control = event.ctrlKey || event.metaKey, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    let what = KEYS[key];
    if (control) what = { s: "save", z: event.shiftKey ? "redo" : "undo", y: "redo" }[key];
    event.stopPropagation(); // of other front ends: their keys are not meant
    if (!what || event.altKey || (event.key === "Enter" && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    if (!event.repeat) this.act(what);
  }

  place(event) { // of an event, in the canvas' own pixels
    const box = this.canvas.getBoundingClientRect(), ratio = this.canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  pixel([x, y], clamped = false) { // of the image; null outside
    const at = [Math.floor((x - this.left) / this.scale), Math.floor((y - this.top) / this.scale)];
    const near = [Math.max(0, Math.min(this.width - 1, at[0])), Math.max(0, Math.min(this.height - 1, at[1]))];
    return clamped || (near[0] === at[0] && near[1] === at[1]) ? near : null;
  }

  down(event) {
    if (!this.labels) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.place(event);
    this.pointers.set(event.pointerId, at);
    if (this.pointers.size > 1) this.drag = { kind: "pinch" };
    else this.drag = { kind: event.button ? "pan" : "click", from: at, to: at, shift: event.shiftKey };
  }

  move(event) {
    const at = this.place(event), before = this.pointers.get(event.pointerId);
    if (!before) {
      const over = this.labels && this.pixel(at);
      this.canvas.style.cursor = over && this.labels[over[1] * this.width + over[0]] ? "pointer" : "crosshair";
      return;
    }
    this.pointers.set(event.pointerId, at);
    if (!this.drag) return;
    if (this.drag.kind === "pinch") {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (!other) return;
      const far = (a) => Math.max(1, Math.hypot(a[0] - other[0], a[1] - other[1]));
      this.shift((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
      this.zoom(far(at) / far(before), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
    } else if (this.drag.kind === "pan") this.shift(at[0] - before[0], at[1] - before[1]);
    else {
      this.drag.to = at;
      const moved = Math.max(...[0, 1].map((k) => Math.abs(at[k] - this.drag.from[k])));
      if (moved > 5 * window.devicePixelRatio && !this.tool) this.drag.kind = "box";
    }
    this.redraw();
  }

  up(event) {
    const drag = this.drag;
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.drag = null;
    if (drag?.kind === "click" && this.pixel(drag.from)) this.click(this.pixel(drag.from), drag.shift);
    if (drag?.kind === "box") {
      const [a, b] = [this.pixel(drag.from, true), this.pixel(drag.to, true)];
      const box = [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
      const middle = [Math.floor((box[0] + box[2]) / 2), Math.floor((box[1] + box[3]) / 2)];
      this.send("add", [], { box, over: drag.shift }, [middle]);
    }
    this.redraw();
  }

  // ---------------------------------------------------------------------------------------------- what is seen
  resize() {
    if (!this.labels || !this.root.clientWidth) return;
    const ratio = window.devicePixelRatio, across = this.root.clientWidth;
    const down = Math.round(Math.max(200, Math.min(0.6 * window.innerHeight, (across * this.height) / this.width)));
    this.canvas.style.height = `${down}px`;
    [this.canvas.width, this.canvas.height] = [Math.round(across * ratio), Math.round(down * ratio)];
    if (this.fitted) this.fit();
    this.redraw();
  }

  fit() {
    this.scale = Math.min(this.canvas.width / this.width, this.canvas.height / this.height);
    this.left = (this.canvas.width - this.scale * this.width) / 2;
    this.top = (this.canvas.height - this.scale * this.height) / 2;
    this.fitted = true;
    this.redraw();
  }

  zoom(by, x, y) {
    const whole = Math.min(this.canvas.width / this.width, this.canvas.height / this.height);
    const scale = Math.max(whole / 2, Math.min(Math.max(40, whole), this.scale * by));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.shift(0, 0);
  }

  shift(x, y) { // some of the image stays in sight
    const keep = 40, [width, height] = [this.width * this.scale, this.height * this.scale];
    this.left = Math.max(keep - width, Math.min(this.canvas.width - keep, this.left + x));
    this.top = Math.max(keep - height, Math.min(this.canvas.height - keep, this.top + y));
    this.fitted = false;
    this.redraw();
  }

  find() { // the box and the centre of every particle
    const { labels, width, height } = this, found = new Map();
    for (let y = 0; y < height; y++) {
      for (let x = 0, end = 0; x < width; x = end) {
        const id = labels[y * width + x];
        for (end = x + 1; end < width && labels[y * width + end] === id; ) end += 1;
        if (!id) continue;
        if (!found.has(id)) found.set(id, { x0: x, x1: x, y0: y, y1: y, area: 0, rows: 0 });
        const one = found.get(id);
        [one.x0, one.x1, one.y1] = [Math.min(one.x0, x), Math.max(one.x1, end - 1), y];
        one.area += end - x;
        one.rows += y * (end - x);
      }
    }
    this.found = found;
  }

  anchor(id, one) { // where its number stands: in the middle of its longest run near its centre
    if (one.at) return one.at;
    const y = Math.max(one.y0, Math.min(one.y1, Math.round(one.rows / one.area)));
    let best = [(one.x0 + one.x1) / 2, 0];
    for (let x = one.x0, begin = x; x <= one.x1 + 1; x++) {
      if (x <= one.x1 && this.labels[y * this.width + x] === id) continue;
      if (x - begin > best[1]) best = [(begin + x) / 2, x - begin];
      begin = x + 1;
    }
    return (one.at = [best[0], y + 0.5]);
  }

  outline(y0, x0, rows, columns) { // the inner boundaries in a window, as thick as can be seen
    const { labels, width, height, line, colors } = this;
    const [top, left] = [Math.max(0, y0 - line), Math.max(0, x0 - line)];
    const [bottom, right] = [Math.min(height, y0 + rows + line), Math.min(width, x0 + columns + line)];
    const drawn = new ImageData(right - left, bottom - top);
    for (let y = top, to = 0; y < bottom; y++) {
      for (let x = left; x < right; x++, to += 4) {
        const at = y * width + x, id = labels[at];
        if (!id) continue;
        for (let far = 1; far <= line; far++) {
          const same = (x < far || labels[at - far] === id) && (x + far >= width || labels[at + far] === id) &&
            (y < far || labels[at - far * width] === id) && (y + far >= height || labels[at + far * width] === id);
          if (same) continue;
          drawn.data.set(colors[id % colors.length], to);
          drawn.data[to + 3] = 255;
          break;
        }
      }
    }
    this.layer.getContext("2d").putImageData(drawn, left, top);
  }

  mark() { // the selected particles
    const context = this.marks.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    for (const id of this.selected) {
      const { x0, y0, x1, y1 } = this.found.get(id), drawn = context.getImageData(x0, y0, x1 - x0 + 1, y1 - y0 + 1);
      for (let y = y0, to = 0; y <= y1; y++) {
        for (let x = x0; x <= x1; x++, to += 4) {
          if (this.labels[y * this.width + x] === id) drawn.data.set([...SELECTED, 80], to);
        }
      }
      context.putImageData(drawn, x0, y0);
    }
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.labels) this.draw();
    });
  }

  draw() {
    const { canvas, scale, left, top, width, height } = this, ratio = window.devicePixelRatio;
    const line = Math.max(1, Math.min(8, Math.round((1.5 * ratio) / scale)));
    if (line !== this.line) {
      this.line = line;
      this.outline(0, 0, height, width);
    }
    const context = canvas.getContext("2d"), place = [left, top, width * scale, height * scale];
    const at = ([x, y]) => [left + x * scale, top + y * scale];
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = scale < 2;
    context.drawImage(this.image, ...place);
    if (this.outlines) context.drawImage(this.layer, ...place);
    if (this.selected.size) context.drawImage(this.marks, ...place);
    const size = 12 * ratio;
    Object.assign(context, { font: `600 ${size}px sans-serif`, textAlign: "center", textBaseline: "middle" });
    Object.assign(context, { lineJoin: "round", lineWidth: 3 * ratio });
    for (const [id, one] of this.numbers ? this.found : []) {
      const wide = (one.x1 - one.x0 + 1) * scale, far = size * 2;
      if (wide < size * 0.6 * `${id}`.length && !this.selected.has(id)) continue; // zoom in to read it
      const [x, y] = at(this.anchor(id, one));
      if (x < -far || y < -far || x > canvas.width + far || y > canvas.height + far) continue;
      this.write(context, `${id}`, x, y);
    }
    const pending = [...this.waiting.values()].flat();
    for (const [points, text] of [[this.inside, "+"], [this.outside, "−"], [pending, "…"]]) {
      for (const [x, y] of points) this.write(context, text, ...at([x + 0.5, y + 0.5]), 1.6 * size);
    }
    if (this.drag?.kind === "box") {
      const [x, y] = this.drag.from, [u, v] = this.drag.to;
      for (const [color, dash] of [["#000", []], ["#fff", [6 * ratio, 4 * ratio]]]) {
        Object.assign(context, { strokeStyle: color, lineWidth: 1.5 * ratio });
        context.setLineDash(dash);
        context.strokeRect(x, y, u - x, v - y);
      }
      context.setLineDash([]);
    }
  }

  write(context, text, x, y, size = 0) {
    if (size) context.font = `700 ${size}px sans-serif`;
    Object.assign(context, { strokeStyle: "rgba(0, 0, 0, 0.85)", fillStyle: "#fff" });
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }

  close() {
    this.model.off("msg:custom", this.heard);
    this.observer.disconnect();
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.close();
  },
};
