// The page of trainings: scores, losses, warnings, and the sample sheets epoch by epoch.
import { address, call } from "./api.js";
import { element, option } from "./dom.js";

const byId = (id) => document.getElementById(id);
const WIDTH = 320;
const HEIGHT = 150;
const LEFT = 44;
const EVERY_MS = 3000;

const svg = (tag, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const short = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3))));

const clock = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);

/** A chart of some columns over the epochs. */
function chart(title, columns, rows, best) {
  const points = rows.flatMap((row) => Object.keys(columns).map((name) => row[name])).filter((x) => x !== undefined);
  const [low, high] = [Math.min(...points), Math.max(...points)];
  const [first, last] = [rows[0].epoch, rows.at(-1).epoch];
  // A single epoch, or a constant, is in the middle.
  const x = (epoch) => LEFT + (last > first ? (epoch - first) / (last - first) : 0.5) * (WIDTH - LEFT - 8);
  const y = (value) => 10 + (high > low ? (high - value) / (high - low) : 0.5) * (HEIGHT - 34);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  picture.append(
    svg("path", { class: "axis", d: `M${LEFT} 6V${HEIGHT - 20}H${WIDTH - 4}` }),
    ...(high > low ? [high, low] : [low]).map((value) => svg("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, short(value))),
    ...(last > first ? [first, last] : [first]).map((epoch) => svg("text", { x: x(epoch), y: HEIGHT - 5, "text-anchor": epoch === first && last > first ? "start" : "middle" }, epoch === first ? `epoch ${first}` : String(last))),
  );
  if (best) picture.append(svg("path", { class: "best", d: `M${x(best)} 6V${HEIGHT - 20}` }));
  const keys = [];
  Object.entries(columns).forEach(([name, words], n) => {
    const known = rows.filter((row) => row[name] !== undefined);
    const path = known.map((row, i) => `${i ? "L" : "M"}${x(row.epoch).toFixed(1)} ${y(row[name]).toFixed(1)}`).join("");
    picture.append(known.length > 1 ? svg("path", { class: `line-${n}`, d: path }) : svg("circle", { class: `line-${n}`, cx: x(known[0].epoch), cy: y(known[0][name]), r: 4 }));
    keys.push(element("span", { className: `key-${n}` }, `${words} ${short(known.at(-1)[name])}`));
  });
  picture.setAttribute("aria-label", `${title}, from epoch ${first} to ${last}; now ${keys.map((key) => key.textContent).join(", ")}`);
  return element("figure", {}, picture, element("figcaption", { className: "note" }, ...keys));
}

/** The columns of one measure, such as the PSNR of both directions, in one chart. */
function charts(run) {
  const { scores, losses } = run.names;
  const groups = new Map();
  for (const [column, words] of Object.entries(scores)) {
    const measure = column.replace(/_(to_)?(target|source)$/, "");
    groups.set(measure, { ...groups.get(measure), [column]: words });
  }
  const of = (groups) => element("div", { className: "charts" }, ...groups.map((columns) => chart(Object.values(columns)[0], columns, run.rows, run.best_epoch)));
  return [
    groups.size ? element("section", { className: "card" }, element("h2", {}, "Validation scores"), of([...groups.values()]), run.best_epoch ? element("p", { className: "note" }, "The dotted line is the best epoch so far.") : null) : null,
    element("section", { className: "card" }, element("h2", {}, "Losses"), of(Object.entries(losses).map(([name, words]) => ({ [name]: words })))),
  ];
}

function state(run) {
  if (!run.rows.length) return "The first epoch is under way.";
  const { epoch } = run.rows.at(-1);
  const best = run.best_epoch ? ` Best validation so far: epoch ${run.best_epoch}.` : run.best_epoch === 0 ? " So far, no validation was better than the initial model." : "";
  const left = run.is_training ? ` About ${clock(run.seconds_left)} left.` : " It is not running.";
  return `${epoch} epoch${epoch > 1 ? "s" : ""} in ${clock(run.rows.at(-1).seconds)}.${best}${left}`;
}

class Runs {
  number = 0;

  async start() {
    const names = await call("GET", "/api/runs");
    if (!names.length) return;
    if (names.length > 1) {
      const select = element("select", { ariaLabel: "Training" }, ...names.map((name, n) => option(name, n)));
      select.addEventListener("change", () => {
        this.number = Number(select.value);
        this.shown = null;
        this.refresh().catch(complain);
      });
      byId("choice").append(element("label", {}, "Training ", select));
    }
    this.slider = element("input", { type: "range", min: 0, max: 0, value: 0, ariaLabel: "Epoch of the samples" });
    this.slider.addEventListener("input", () => this.#sheet());
    this.epoch = element("output");
    this.sheet = element("img", { className: "sheet", alt: "" });
    this.samples = element("section", { className: "card" }, element("h2", {}, "Samples"), element("div", { className: "controls" }, this.slider, this.epoch), this.sheet);
    await this.refresh();
    setInterval(() => this.refresh().catch(complain), EVERY_MS);
  }

  async refresh() {
    const { number } = this;
    const run = await call("GET", `/api/runs/${number}`);
    if (number !== this.number) return; // another one was chosen meanwhile
    byId("messages").replaceChildren();
    const key = JSON.stringify([number, run.rows.length, run.samples, run.is_training]);
    const words = element("p", { id: "state" }, state(run));
    if (key === this.shown) return byId("state").replaceWith(words);
    this.shown = key;
    this.run = { ...run, number };
    const atEnd = this.slider.value === this.slider.max;
    this.slider.max = Math.max(0, run.samples.length - 1);
    if (atEnd) this.slider.value = this.slider.max;
    const warnings = run.warnings.map((text) => element("div", { className: "error" }, text));
    const about = element("section", { className: "card" }, element("h2", {}, `${run.name} (${run.preset}, ${run.contrasts.join(" ↔ ")})`), words, ...warnings);
    byId("run").replaceChildren(about, ...(run.samples.length ? [this.samples] : []), ...(run.rows.length ? charts(run).filter(Boolean) : []));
    this.#sheet();
    byId("run").dataset.epochs = run.rows.length;
  }

  #sheet() {
    const name = this.run.samples[this.slider.value];
    if (!name) return;
    const epoch = Number(name.match(/\d+/)[0]);
    this.epoch.value = epoch ? `epoch ${epoch}` : "before training";
    this.sheet.src = address(`/api/runs/${this.run.number}/samples/${name}`);
    this.sheet.alt = `Slices, their translations, cycles and identities, ${this.epoch.value}`;
  }
}

function complain(error) {
  byId("messages").replaceChildren(element("div", { className: "error" }, error.message));
}

new Runs().start().catch((error) => {
  complain(error);
  byId("run").replaceChildren();
});
