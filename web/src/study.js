// The page of a reader study: one blinded scan after the other, and the questions about it.
import { call, volume } from "./api.js";
import { button, element } from "./dom.js";
import { Viewer } from "./viewer.js";

const byId = (id) => document.getElementById(id);
const ORIGIN = [["r", "real", "Real"], ["s", "synthetic", "Synthetic"]];
const QUALITY = ["unusable", "poor", "fair", "good", "excellent"].map((word, n) => [String(n + 1), String(n + 1), `${n + 1} ${word}`]);
const PRESENCE = [["y", "yes", "Yes"], ["n", "no", "No"]];

/** One question: radio buttons, each with its key. */
class Question {
  constructor(name, title, choices, changed) {
    this.name = name;
    this.choices = choices;
    this.inputs = choices.map(([, value]) => element("input", { type: "radio", name, value }));
    for (const input of this.inputs) input.addEventListener("change", changed);
    const labels = choices.map(([key, , words], n) => element("label", {}, this.inputs[n], ` ${words} `, element("kbd", {}, key.toUpperCase())));
    this.root = element("fieldset", {}, element("legend", {}, title), ...labels);
  }

  get answer() {
    return this.inputs.find((input) => input.checked)?.value;
  }

  /** Choose by a key; whether it is one of this question. */
  press(key) {
    const n = this.choices.findIndex(([own]) => own === key);
    if (n < 0) return false;
    this.inputs[n].checked = true;
    return true;
  }
}

class Study {
  async start() {
    document.addEventListener("keydown", (event) => this.#key(event));
    await this.next();
  }

  complain(error) {
    byId("messages").replaceChildren(element("div", { className: "error" }, error.message ?? String(error)));
  }

  async next() {
    const study = await call("GET", "/api/study");
    byId("messages").replaceChildren();
    this.viewer?.close();
    this.viewer = null;
    this.questions = [];
    document.body.dataset.done = study.done;
    if (!study.next) {
      byId("scan").replaceChildren(element("h2", {}, "Thank you"), element("p", {}, `You have judged all ${study.scans} scans. You can close this page.`));
      byId("questions").hidden = true;
      return;
    }
    this.scan = study.next;
    this.at = -1;
    this.began = performance.now();
    const title = `Scan ${study.done + 1} of ${study.scans}`;
    const place = element("div", { id: "viewer" });
    const bar = element("progress", { max: study.scans, value: study.done, ariaLabel: "Scans that are done" });
    byId("scan").replaceChildren(element("h2", {}, title), bar, place);
    const changed = () => this.#changed();
    this.questions = [
      new Question("origin", "Is this scan real or synthetic?", ORIGIN, changed),
      new Question("quality", "How good is it?", QUALITY, changed),
    ];
    this.spots = this.scan.spots.map((spot, n) => {
      const question = new Question(spot.name, `Position ${n + 1}: is there a lesion?`, PRESENCE, changed);
      question.root.append(button("Show", () => this.#goTo(spot), { ariaLabel: `Show position ${n + 1}` }));
      question.spot = spot;
      this.questions.push(question);
      return question;
    });
    this.save = button("Save and continue (Enter)", () => this.#save(), { className: "main" });
    const help = element("p", { className: "note" }, `Keys: R real, S synthetic, 1 to 5 quality${this.spots.length ? ", P next position, Y lesion, N no lesion" : ""}, Enter saves. Saved answers are kept: you can close the page and continue later.`);
    byId("questions").replaceChildren(element("h2", {}, "Questions"), ...this.questions.map((one) => one.root), element("div", { className: "controls" }, this.save), help);
    this.#changed();
    this.viewer = new Viewer(place, [{ role: "source", label: title, synthetic: false, low: 0, high: 255, fetch: () => volume(`/api/scans/${this.scan.scan}`) }], { saves: false });
    await this.viewer.show();
  }

  #changed() {
    this.save.disabled = this.questions.some((one) => one.answer === undefined);
  }

  #goTo(spot) {
    this.at = this.scan.spots.indexOf(spot);
    this.viewer.goTo(spot.position_mm);
    this.questions.forEach((one) => one.root.classList.toggle("shown", one.spot === spot));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.questions?.length) return;
    const key = event.key.toLowerCase();
    const [origin, quality] = this.questions;
    if (key === "enter" && event.target.tagName !== "BUTTON") {
      if (!this.save.disabled) this.#save();
    } else if (key === "p" && this.spots.length) {
      this.#goTo(this.spots[(this.at + 1) % this.spots.length].spot);
    } else if (event.target.type === "number") {
      return; // digits of the window
    } else if (!(origin.press(key) || quality.press(key) || (this.at >= 0 && this.spots[this.at]?.press(key)))) {
      return;
    }
    event.preventDefault();
    this.#changed();
  }

  async #save() {
    this.save.disabled = true;
    const answers = Object.fromEntries(this.questions.map((one) => [one.name, one.answer]));
    const seconds = (performance.now() - this.began) / 1000;
    try {
      await call("POST", "/api/answers", JSON.stringify({ scan: this.scan.scan, answers, seconds }));
      await this.next();
      byId("questions").focus();
    } catch (error) {
      this.complain(error);
      this.save.disabled = false;
    }
  }
}

const study = new Study();
study.start().catch((error) => study.complain(error));
