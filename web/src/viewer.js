// Scans side by side, or one over the other: linked crosshair, three planes, windowing, values.
import { Niivue, SLICE_TYPE, SHOW_RENDER, DRAG_MODE, NVImage, MULTIPLANAR_TYPE } from "@niivue/niivue";
import { button, element, option } from "./dom.js";

const MARK = "SYNTHETIC";
const AMBER = [1, 0.75, 0.2, 1];

/** Writes SYNTHETIC into every slice of a synthetic scan: into the pixels, not over them. */
class MarkedNiivue extends Niivue {
  synthetic = false;
  from = 0; // the share of each slice, at its left, that is not visible

  drawSceneCore() {
    const result = super.drawSceneCore();
    if (this.synthetic && this.volumes.length) {
      for (const { leftTopWidthHeight: [left, top, width, height] } of this.screenSlices) {
        if (height < 2 * this.fontPx) continue; // the edge of a single slice
        const room = width * (1 - this.from) - 8;
        const size = Math.min(1.1, room / Math.max(1, this.textWidth(this.fontPx, MARK)));
        this.drawText([left + width * this.from + 4, top + height - 1.5 * this.fontPx * size], MARK, size, AMBER);
      }
    }
    return result;
  }
}

const PLANES = {
  "Three planes": SLICE_TYPE.MULTIPLANAR,
  Axial: SLICE_TYPE.AXIAL,
  Coronal: SLICE_TYPE.CORONAL,
  Sagittal: SLICE_TYPE.SAGITTAL,
};

const MOVES = {
  ArrowLeft: [-1, 0, 0],
  ArrowRight: [1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

const format = (value) =>
  !Number.isFinite(value) ? "–" : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);

/** One scan: a canvas, its title, its window, and the value under the crosshair. */
class Panel {
  constructor(layer, viewer) {
    this.layer = layer;
    this.viewer = viewer;
    this.canvas = element("canvas", { tabIndex: 0, role: "img", className: "scan" });
    this.value = element("output", { className: "value" });
    this.low = this.#bound("black", "low");
    this.high = this.#bound("white", "high");
    const reset = button("Reset", () => this.setWindow(layer.low, layer.high));
    reset.setAttribute("aria-label", `Reset the window of ${layer.label}`);
    this.frame = element("div", { className: "frame" }, this.canvas);
    this.root = element(
      "section",
      { className: "panel", ariaLabel: layer.label },
      element("h3", {}, layer.label, " ", this.value),
      this.frame,
      element("div", { className: "window" }, element("span", {}, "Window"), this.low, "to", this.high, reset),
    );
    this.nv = new MarkedNiivue({
      backColor: [0, 0, 0, 1],
      crosshairColor: [0.3, 0.7, 1, 0.8],
      crosshairWidth: 0.4,
      crosshairWidthUnit: "percent",
      isCornerOrientationText: true,
      dragMode: DRAG_MODE.contrast,
      dragAndDropEnabled: false,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarLayout: MULTIPLANAR_TYPE.AUTO,
      isRadiologicalConvention: true,
      loadingText: "",
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      logLevel: "error",
    });
    this.nv.synthetic = Boolean(layer.synthetic);
  }

  #bound(name, key) {
    const input = element("input", { type: "number", step: "any", ariaLabel: `${name} at, ${this.layer.label}` });
    input.addEventListener("change", () => {
      const value = Number(input.value);
      const [low, high] = key === "low" ? [value, this.image.cal_max] : [this.image.cal_min, value];
      if (low < high) this.setWindow(low, high);
      else this.showWindow();
    });
    return input;
  }

  async load() {
    await this.nv.attachToCanvas(this.canvas, false);
    const image = await toImage(this.layer);
    if (this.viewer.isClosed) return;
    this.nv.addVolume(image);
    this.image = this.nv.volumes[0];
    this.nv.onLocationChange = (place) => this.viewer.moved(this, place);
    this.nv.onIntensityChange = () => this.showWindow();
    this.setWindow(this.layer.low, this.layer.high);
    this.isFlat = this.image.dims[3] === 1;
    if (this.isFlat) this.nv.setSliceType(SLICE_TYPE.AXIAL);
    // A 2D image comes with the identity: its orientation is unknown.
    this.isPicture = this.isFlat && this.image.hdr.affine.flat().every((x, n) => x === (n % 5 ? 0 : 1));
    if (this.isPicture) this.nv.opts.isOrientationTextVisible = false;
  }

  /** The uncertainty map, once to be shown in colour and once to hide what it covers. */
  async loadUncertainty(layer) {
    for (const [colormap, opacity] of [["inferno", 0], ["hide", 0]]) {
      const image = await toImage(layer);
      image.colormap = colormap;
      image.opacity = opacity;
      image.cal_min = layer.low;
      image.cal_max = layer.high;
      this.nv.addVolume(image);
    }
    [, this.inColour, this.hiding] = this.nv.volumes;
  }

  setWindow(low, high) {
    this.image.cal_min = low;
    this.image.cal_max = high;
    this.nv.updateGLVolume();
    this.showWindow();
  }

  showWindow() {
    this.low.value = format(this.image.cal_min);
    this.high.value = format(this.image.cal_max);
  }

  follow(other) {
    other.nv.doSync2d(this.nv);
    this.nv.drawScene();
  }

  valueAt(mm) {
    const [i, j, k] = this.image.mm2vox(mm);
    return this.image.getValue(i, j, k);
  }
}

async function toImage(layer) {
  const buffer = layer.buffer ?? (layer.buffer = await layer.fetch());
  return NVImage.loadFromUrl({ url: buffer, name: layer.packed ? "scan.nii.gz" : "scan.nii" });
}

export class Viewer {
  /**
   * @param {HTMLElement} root where it is shown
   * @param {object[]} layers each with role, label, synthetic, low, high and fetch(), which gives an ArrayBuffer
   * @param {object} options saves: whether pictures can be saved
   */
  constructor(root, layers, { saves = true } = {}) {
    this.root = root;
    this.saves = saves;
    this.layers = layers.filter((layer) => layer.role !== "uncertainty");
    this.uncertainty = layers.find((layer) => layer.role === "uncertainty");
    this.panels = this.layers.map((layer) => new Panel(layer, this));
  }

  get top() {
    return this.panels[Number(this.over?.value ?? 1)] ?? this.panels[0];
  }

  async show() {
    this.status = element("output", { className: "place", ariaLive: "polite" });
    this.stage = element("div", { className: "stage" }, ...this.panels.map((panel) => panel.root));
    this.root.replaceChildren(this.#controls(), this.stage, this.status, this.#help());
    this.stage.addEventListener("keydown", (event) => this.#key(event));
    this.observer = new ResizeObserver(() => this.#resized());
    this.observer.observe(this.stage);
    for (const panel of this.panels) {
      await panel.load();
      if (this.isClosed) return;
    }
    this.planes.hidden = this.panels.every((panel) => panel.isFlat);
    this.convention.hidden = this.panels.every((panel) => panel.isPicture);
    if (this.uncertainty) {
      const made = this.panels.find((panel) => panel.layer.role === "synthetic");
      made.nv.addColormap("hide", { R: [20, 20], G: [24, 24], B: [32, 32], A: [0, 255], I: [0, 255] });
      await made.loadUncertainty(this.uncertainty);
      if (this.isClosed) return;
      this.made = made;
    }
    this.setMode("side");
    this.panels[0].nv.createOnLocationChange();
    this.root.dataset.ready = "yes";
  }

  #controls() {
    const planes = element("select", { ariaLabel: "Planes" }, ...Object.keys(PLANES).map((name) => option(name)));
    planes.addEventListener("change", () => {
      for (const panel of this.panels) panel.nv.setSliceType(PLANES[planes.value]);
      this.#resized();
    });
    const bar = element("div", { className: "controls" }, (this.planes = element("label", {}, "Show ", planes)));
    if (this.panels.length > 1) {
      this.mode = element("select", { ariaLabel: "Compare" }, option("Side by side", "side"), option("Swipe", "swipe"), option("Flicker", "flicker"));
      this.mode.addEventListener("change", () => this.setMode(this.mode.value));
      this.over = element("select", { ariaLabel: "On top" }, ...this.layers.slice(1).map((layer, n) => option(layer.label, n + 1)));
      this.over.addEventListener("change", () => this.setMode(this.mode.value));
      this.split = element("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "Position of the dividing line" });
      this.split.addEventListener("input", () => this.#swipe());
      this.flip = button("Switch (space bar)", () => this.flicker());
      this.overLabel = element("label", {}, "On top ", this.over);
      bar.append(element("label", {}, "Compare ", this.mode), this.overLabel, this.split, this.flip);
    }
    if (this.uncertainty) bar.append(...this.#uncertaintyControls());
    if (this.saves) bar.append(button("Save picture", () => this.save()));
    return bar;
  }

  #uncertaintyControls() {
    const { low, high } = this.uncertainty;
    const colour = element("input", { type: "checkbox" });
    colour.addEventListener("change", () => {
      this.made.inColour.opacity = colour.checked ? 0.6 : 0;
      this.made.nv.updateGLVolume();
    });
    const limit = element("input", { type: "range", min: 0, max: high, step: (high - Math.min(low, 0)) / 200, value: high, ariaLabel: "Hide what is less certain than" });
    const shown = element("output", {}, "nothing hidden");
    limit.addEventListener("input", () => {
      const value = Number(limit.value);
      const all = value >= high;
      this.made.hiding.cal_min = value;
      this.made.hiding.cal_max = value * 1.000001 + 1e-9;
      this.made.hiding.opacity = all ? 0 : 1;
      this.made.nv.updateGLVolume();
      shown.value = all ? "nothing hidden" : `± ${format(value)}`;
    });
    this.limit = limit;
    return [
      element("label", {}, colour, " Uncertainty in colour"),
      element("label", {}, "Hide what is less certain than ", limit, " ", shown),
    ];
  }

  #help() {
    return element(
      "p",
      { className: "note" },
      `Mouse: click or drag to move the crosshair, scroll to change the slice, drag with the right button to change the window. Keyboard: the arrow keys, Page Up and Page Down move the crosshair${this.panels.length > 1 ? "; the space bar switches between two scans" : ""}. `,
      (this.convention = element("span", {}, "The patient's right is on the left (radiological convention).")),
    );
  }

  setMode(mode) {
    this.current = mode;
    this.stage.dataset.mode = mode;
    const stacked = mode !== "side";
    if (this.over) {
      this.mode.value = mode;
      this.overLabel.hidden = !stacked || this.panels.length < 3;
      this.split.hidden = mode !== "swipe";
      this.flip.hidden = mode !== "flicker";
    }
    this.isTopShown = true;
    for (const panel of this.panels) {
      const used = !stacked || panel === this.panels[0] || panel === this.top;
      panel.root.hidden = !used;
      panel.frame.style.clipPath = "";
      panel.nv.from = 0;
      panel.root.style.visibility = "";
      panel.root.classList.toggle("upper", stacked && panel === this.top);
    }
    requestAnimationFrame(() => this.#resized());
  }

  /** Show the upper scan in the right part of every slice. */
  #swipe() {
    const { nv, frame } = this.top;
    const scale = nv.uiData.dpr || 1;
    const rights = nv.screenSlices.map(({ leftTopWidthHeight }) => {
      const [left, top, width, height] = leftTopWidthHeight.map((x) => x / scale);
      const from = left + (width * Number(this.split.value)) / 100;
      return `M${from} ${top}H${left + width}V${top + height}H${from}Z`;
    });
    frame.style.clipPath = `path("${rights.join("")}")`;
    nv.from = Number(this.split.value) / 100;
    nv.drawScene();
  }

  #resized() {
    for (const { nv } of this.panels) {
      nv.resizeListener();
      const [slice] = nv.screenSlices;
      if (slice) nv.setCrosshairWidth(Math.max(0.4, 120 / slice.leftTopWidthHeight[2])); // a pixel, also of a narrow window
    }
    if (this.current === "swipe") this.#swipe();
  }

  flicker() {
    if (this.panels.length < 2) return;
    if (this.current !== "flicker") this.setMode("flicker");
    this.isTopShown = !this.isTopShown;
    this.top.root.style.visibility = this.isTopShown ? "" : "hidden";
    const shown = this.isTopShown ? this.top : this.panels[0];
    shown.canvas.focus();
    this.#tell(`${shown.layer.label} is on top.`);
  }

  #key(event) {
    if (event.target.tagName !== "CANVAS" || event.ctrlKey || event.metaKey || event.altKey) return;
    const panel = this.panels.find((one) => one.canvas === event.target);
    if (event.code === "Space") this.flicker();
    else if (MOVES[event.code]) panel.nv.moveCrosshairInVox(...MOVES[event.code]);
    else return;
    event.preventDefault();
  }

  /** Move the crosshair to a position in mm. */
  goTo(mm) {
    if (!this.root.dataset.ready) return;
    const { nv } = this.panels[0];
    nv.scene.crosshairPos = nv.mm2frac(mm);
    nv.drawScene();
    nv.createOnLocationChange();
  }

  moved(panel, place) {
    for (const other of this.panels) if (other !== panel) other.follow(panel);
    const mm = panel.nv.frac2mm(panel.nv.scene.crosshairPos);
    this.position = mm.slice(0, 3);
    for (const one of this.panels) one.value.value = format(one.valueAt(mm));
    const values = this.panels.map((one) => `${one.layer.label} ${one.value.value}`);
    if (this.made?.inColour) {
      const [i, j, k] = this.made.inColour.mm2vox(mm);
      values.push(`uncertainty ± ${format(this.made.inColour.getValue(i, j, k))}`);
    }
    const where = [...this.position].map((x) => x.toFixed(0)).join(", ");
    this.#tell(`At ${where}${panel.isFlat ? "" : " mm"}: ${values.join(", ")}`);
    for (const one of this.panels) one.canvas.setAttribute("aria-label", `${one.layer.label}. ${this.status.value}`);
  }

  #tell(text) {
    this.status.value = text;
  }

  /** Save what is shown as one PNG, with the titles. */
  async save() {
    const shown = this.panels.filter((panel) => !panel.root.hidden && panel.root.style.visibility !== "hidden");
    const side = this.current === "side";
    for (const panel of shown) panel.nv.drawScene();
    const gap = 32;
    const { width, height } = shown[0].canvas;
    const sheet = element("canvas", { width: side ? width * shown.length : width, height: height + gap });
    const pen = sheet.getContext("2d");
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.font = "18px sans-serif";
    shown.forEach((panel, n) => {
      panel.nv.drawScene();
      pen.save();
      if (this.current === "swipe" && panel === this.top) {
        pen.beginPath();
        for (const { leftTopWidthHeight: [left, top, wide, high] } of panel.nv.screenSlices) {
          const hidden = (wide * Number(this.split.value)) / 100;
          pen.rect(left + hidden, top + gap, wide - hidden, high);
        }
        pen.clip();
      }
      pen.drawImage(panel.canvas, side ? n * width : 0, gap);
      pen.restore();
      pen.fillStyle = "#fff";
      if (side || n === 0) pen.fillText(side ? panel.layer.label : shown.map((p) => p.layer.label).join(" | "), (side ? n * width : 0) + 8, 22);
      pen.fillStyle = "#000";
    });
    if (shown.some((panel) => panel.layer.synthetic)) {
      pen.fillStyle = "#ffbf33";
      pen.textAlign = "right";
      pen.fillText("SYNTHETIC: for research, not for diagnosis", sheet.width - 8, 22);
    }
    const link = element("a", { download: "mrbridge.png", href: sheet.toDataURL("image/png") });
    link.click();
    return link.href;
  }

  close() {
    this.isClosed = true;
    this.observer?.disconnect();
    for (const panel of this.panels) panel.nv.cleanup?.();
    this.root.replaceChildren();
  }
}
