// The chosen scan: what it is, its translation, the pictures, and the files to take home.
import { address, call, upload, volume } from "./api.js";
import { button, element, option } from "./dom.js";
import { Viewer } from "./viewer.js";

const VERDICTS = {
  usual: "Usual: the model was made for scans like this one.",
  unusual: "Unusual: check the result with care.",
  refused: "Refused: the model was not made for this.",
};

const KINDS = {
  scan: "the synthetic scan, in the format that came in",
  sidecar: "how it was made (JSON)",
  uncertainty: "the uncertainty map",
  report: "one page with the scans and a viewer",
  methods: "a paragraph for the methods section of a paper",
  scores: "scores against the true scan (JSON)",
  all: "all files in one zip",
};

const ROLES = { source: "source", synthetic: "synthetic", truth: "true scan", difference: "difference from the true scan", uncertainty: "uncertainty" };

const seconds = (value) => (value < 90 ? `${Math.max(1, Math.round(value))} s` : `${Math.round(value / 60)} min`);

const size = (bytes) => (bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

const card = (title, ...content) => element("section", { className: "card" }, element("h2", {}, title), ...content);

export class Detail {
  constructor(root, page) {
    this.root = root;
    this.page = page;
  }

  clear() {
    this.viewer?.close();
    this.id = this.viewer = this.shown = null;
    this.root.replaceChildren(element("p", { className: "empty" }, "No scan yet. Add one to see what it is, translate it and download the result."));
  }

  /** Show a job; parts that do not change stay, so that the focus stays where it is. */
  show(job) {
    if (this.id !== job.id) {
      this.clear();
      this.id = job.id;
      this.parts = { what: element("div"), work: element("div"), look: element("div"), compare: element("div"), take: element("div") };
      this.root.replaceChildren(...Object.values(this.parts));
      this.drawn = {};
      this.also = element("input", { type: "file", multiple: true }); // one for all translations, which keeps the chosen files
    }
    this.#draw("what", [job.scan, job.verdict, Boolean(job.error)], () => this.#what(job));
    this.#draw("work", [job.state, Boolean(job.scan)], () => this.#work(job));
    if (this.bar) {
      this.bar.value = job.progress;
      this.left.textContent = this.#timeLeft(job);
    }
    this.#draw("compare", job.comparison, () => this.#compare(job));
    this.#draw("take", [job.files, job.notes], () => this.#take(job));
    this.#draw("look", job.views, () => this.#look(job));
  }

  #draw(part, depends, make) {
    const key = JSON.stringify(depends);
    if (this.drawn[part] === key) return;
    this.drawn[part] = key;
    const root = this.parts[part];
    const hadFocus = root.contains(document.activeElement);
    root.replaceChildren(...make());
    if (hadFocus) root.querySelector("button, select, input")?.focus(); // "Translate" became "Cancel"
  }

  #what(job) {
    const { scan, verdict } = job;
    const title = element("h2", {}, job.name);
    if (!scan) return [element("section", { className: "card" }, title, element("p", { className: "note" }, job.error ? "The scan could not be read." : "Reading the scan …"))];
    const item = scan.items.length === 1 ? scan.items[0] : null;
    const facts = [
      ["Contrast", scan.contrast ? `${scan.contrast}${item?.reason ? `, ${item.reason}` : ""}` : "unknown"],
      ["Grid", scan.shape.join(" × ")],
      ["Spacing", scan.spacing_mm ? `${scan.spacing_mm.map((x) => x.toPrecision(3)).join(" × ")} mm` : "unknown (2D image)"],
    ];
    if (scan.items.length > 1) facts.push(["Series", `${scan.items.length} in the folder`]);
    const list = element("dl", {}, ...facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
    const reasons = verdict.reasons.length ? element("ul", {}, ...verdict.reasons.map((text) => element("li", {}, text))) : null;
    return [element("section", { className: "card" }, title, list, element("p", { className: `verdict ${verdict.state}` }, VERDICTS[verdict.state]), reasons)];
  }

  #work(job) {
    this.bar = this.left = null;
    if (job.state === "running" || job.state === "queued") {
      this.bar = element("progress", { max: 1, value: job.progress, ariaLabel: "Progress" });
      this.left = element("span", { className: "note" }, this.#timeLeft(job));
      const stop = button("Cancel", () => this.#do(call("POST", `/api/jobs/${job.id}/cancel`)));
      return job.scan ? [card("Translate", this.bar, element("div", { className: "controls" }, stop, this.left))] : [];
    }
    const error = job.error ? element("div", { className: "error", role: "alert" }, job.error.text) : null;
    const remove = button("Remove this scan", () => this.page.remove(job.id).catch((e) => this.page.complain(e)));
    if (!job.scan) return [card(error ? "Error" : "Cancelled", error, element("div", { className: "controls" }, remove))];
    return [card(job.state === "done" ? "Translate again" : "Translate", error, ...this.#choices(job, remove))];
  }

  #choices(job, remove) {
    const { models } = this.page.server;
    const model = element("select", { ariaLabel: "Model" }, ...models.map((one, n) => option(`${one.name} (${one.contrasts.join(one.contrasts.length > 2 ? ", " : " ↔ ")})`, n)));
    model.value = job.model;
    const to = element("select", { ariaLabel: "Contrast to synthesise" });
    const fill = () => {
      to.replaceChildren(...models[model.value].contrasts.map((one) => option(one)));
      if (job.target) to.value = job.target;
    };
    const { also } = this;
    const wanted = element("span");
    const single = button("Use this scan only", () => {
      also.value = "";
      also.onchange();
      also.focus(); // the button is gone
    });
    const others = element("div", { className: "controls" }, element("label", {}, wanted, also), single);
    const useOthers = () => models[model.value].takes_several && also.files.length > 0;
    const uncertainty = element("input", { type: "checkbox" });
    const about = element("span");
    const known = () => {
      const { contrasts, takes_several: takesSeveral, uncertainty: hasMaps } = models[model.value];
      others.hidden = !takesSeveral;
      single.hidden = !also.files.length;
      wanted.textContent = `Other scans of this person to use as well (${contrasts.filter((one) => ![to.value, job.scan.contrast].includes(one)).join(", ")}): `;
      uncertainty.checked = job.maps[model.value].includes(to.value);
      const has = uncertainty.checked || (useOthers() && hasMaps); // of several scans, the translation knows
      uncertainty.disabled = !has;
      about.textContent = has ? " Compute an uncertainty map" : " No uncertainty map: this model does not provide one for this contrast";
    };
    const time = element("span", { className: "note" });
    const expected = () => {
      time.textContent = job.estimates ? `takes about ${seconds(job.estimates[model.value])}` : "";
    };
    also.onchange = known;
    model.addEventListener("change", () => (fill(), known(), expected()));
    fill();
    known();
    expected();
    const force = element("input", { type: "checkbox" });
    const gaps = element("input", { type: "checkbox" });
    const isDicom = job.scan.items.some((item) => item.uid);
    const usable = job.scan.items.filter((item) => item.uid);
    const series = element("select", { ariaLabel: "Series" }, option("chosen by contrast", ""), ...usable.map((item) => option(`${item.name}: ${item.contrast ?? item.kind}, ${item.shape?.[2] ?? "?"} slices`, item.name)));
    const truth = element("input", { type: "file", ariaLabel: "The true scan" });
    const start = button(`Translate to ${to.value}`, () => {
      if (start.ariaDisabled) return;
      const form = new FormData();
      for (const [name, value] of Object.entries({ to: to.value, model: model.value, uncertainty: uncertainty.checked, force: force.checked, allow_gaps: gaps.checked, series: series.value })) form.append(name, value);
      for (const file of truth.files) form.append("truth", file, file.name);
      if (useOthers()) [...also.files].forEach((file) => form.append("also", file, file.name));
      else form.append("also", ""); // not those of an earlier translation
      start.ariaDisabled = "true"; // "disabled" would take the focus from it
      this.#do(upload(`/api/jobs/${job.id}/start`, form, () => {}), () => (start.ariaDisabled = null));
    }, { className: "main" });
    model.addEventListener("change", () => (start.textContent = `Translate to ${to.value}`));
    to.addEventListener("change", () => ((start.textContent = `Translate to ${to.value}`), known()));
    const refused = job.verdict.state === "refused" || job.error;
    return [
      element("div", { className: "controls" }, element("label", {}, "Contrast ", to), models.length > 1 ? element("label", {}, "Model ", model) : null, usable.length > 1 ? element("label", {}, "Series ", series) : null),
      others,
      element("div", { className: "controls" },
        element("label", {}, uncertainty, about)),
      element("div", { className: "controls" }, element("label", {}, "True scan, if you have one, for comparison: ", truth)),
      refused || isDicom
        ? element("div", { className: "controls" },
            refused ? element("label", {}, force, " Translate it although it is refused (--force)") : null,
            isDicom ? element("label", {}, gaps, " Interpolate missing slices (--allow-gaps)") : null)
        : null,
      element("div", { className: "controls" }, start, time, remove),
    ];
  }

  #timeLeft(job) {
    if (job.state === "queued") return job.waiting_for ? `${job.waiting_for} scan${job.waiting_for > 1 ? "s" : ""} ahead in the queue.` : "Next in the queue.";
    if (job.progress <= 0.02) return job.estimated_seconds ? `About ${seconds(job.estimated_seconds)}.` : "";
    const now = performance.now() / 1000;
    if (this.since?.id !== job.id || this.since.progress > job.progress) this.since = { id: job.id, progress: job.progress, now };
    const { progress, now: began } = this.since;
    const isKnown = now - began > 2 && job.progress > progress;
    const whole = isKnown ? (now - began) / (job.progress - progress) : job.estimated_seconds;
    const left = whole * (1 - job.progress);
    return `${Math.round(100 * job.progress)} %, about ${seconds(left)} left.`;
  }

  #take(job) {
    const notes = job.notes.length ? card("Notes", element("ul", {}, ...job.notes.map((note) => element("li", {}, note)))) : null;
    if (!job.files.length) return notes ? [notes] : [];
    const rows = job.files.map((file) =>
      element("li", {}, element("a", { className: "button", href: address(`/api/jobs/${job.id}/files/${encodeURIComponent(file.name)}`), download: file.name }, file.name), element("span", { className: "what" }, `${KINDS[file.kind] ?? file.kind}, ${size(file.bytes)}`)));
    const made = job.also.length ? element("p", { className: "note" }, `Made from ${[job.name, ...job.also].join(" and ")}.`) : null;
    return [notes, card("Download", made, element("ul", { className: "files" }, ...rows))].filter(Boolean);
  }

  #compare(job) {
    const { comparison } = job;
    if (!comparison) return [];
    const title = "Comparison with the true scan";
    if (comparison.refused) return [card(title, element("div", { className: "error" }, comparison.refused))];
    const methods = { model: "synthetic scan", floor: "best intensity curve, fitted to this pair", copy: "source, unchanged" };
    const cells = (row, tag = "td") => row.map((text) => element(tag, {}, text));
    const head = element("tr", {}, ...cells(["", "PSNR", "SSIM", "mean absolute error"], "th"));
    const rows = Object.entries(methods).map(([method, words]) => {
      const { psnr, ssim, mae } = comparison.scores[method].fit;
      return element("tr", {}, element("th", { scope: "row" }, words), ...cells([`${psnr.toFixed(1)} dB`, ssim.toFixed(3), `${(100 * mae).toFixed(1)} %`]));
    });
    const table = element("div", { className: "wide" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
    return [card(title, table, element("p", { className: "note" }, `${comparison.note} Each image is first fitted to the true scan by one scale and one offset, since MR intensities have no unit; 100 % is the true scan's 99.5th percentile. Inside the head of the true scan.`))];
  }

  #look(job) {
    const views = Object.entries(job.views);
    if (!views.length) return [];
    this.viewer?.close();
    this.viewer = null;
    const place = element("div", { id: "viewer" });
    const layers = views.map(([role, view]) => ({
      ...view,
      role,
      label: role === "source" || role === "synthetic" || role === "truth" ? `${view.contrast ?? "Scan"} (${ROLES[role]})` : ROLES[role].replace(/^./, (c) => c.toUpperCase()),
      synthetic: ["synthetic", "difference"].includes(role) || view.synthetic,
      fetch: () => volume(`/api/jobs/${job.id}/files/${view.name}`),
    }));
    const order = ["source", "synthetic", "truth", "difference", "uncertainty"];
    layers.sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role));
    const viewer = (this.viewer = new Viewer(place, layers));
    const shown = card("View", place);
    queueMicrotask(() => viewer.show().catch((error) => place.replaceChildren(element("div", { className: "error" }, `The scans cannot be shown (${error.message}). The viewer needs WebGL 2.`))));
    return [shown];
  }

  async #do(request, after = () => {}) {
    try {
      this.page.changed(await request);
    } catch (error) {
      this.page.complain(error);
      after();
    }
  }
}
