// The page of `mrbridge serve`: add scans, and choose the one that is shown.
import { call, follow, upload } from "./api.js";
import { Detail } from "./detail.js";
import { button, element } from "./dom.js";
import { asScans, droppedFiles } from "./drop.js";

const byId = (id) => document.getElementById(id);

const STATES = {
  ready: "Ready to translate",
  queued: "Waiting",
  running: "Translating",
  done: "Translated",
  failed: "Failed",
  cancelled: "Cancelled",
};

const nameOf = (files) => (files.length > 1 ? `DICOM series, ${files.length} files` : files[0].name);

class Page {
  jobs = new Map();
  chosen = null;

  async start() {
    this.server = await call("GET", "/api/health");
    this.detail = new Detail(byId("detail"), this);
    follow((message) => this.heard(message), (answers) => this.connected(answers));
  }

  /** Show what the server tells: in other tabs, too, scans are added, translated and removed. */
  heard({ jobs, removed }) {
    for (const job of jobs) this.changed(job);
    for (const id of removed) this.forget(id);
    if (!this.chosen) this.chooseLast();
  }

  connected(answers) {
    if (answers) this.silence?.remove();
    else if (!this.silence?.isConnected) byId("messages").append((this.silence = element("div", { className: "error" }, "The server does not answer. Is it still running? When it is started again, it prints a new URL.")));
  }

  complain(error) {
    const box = element("div", { className: "error" }, error.message ?? String(error), " ", button("Close", () => box.remove()));
    byId("messages").append(box);
  }

  async add(files) {
    const scans = asScans(files);
    if (!scans.length) this.complain("There are no files in what you dropped.");
    for (const scan of scans) {
      // Only the first one is shown by itself: what a user looks at does not change at the end of an upload.
      await this.send(scan, scan === scans[0]).catch((error) => this.complain(`${nameOf(scan)}: ${error.message}`));
    }
  }

  async send(files, show) {
    await this.started; // which knows the limits
    const name = nameOf(files);
    const most = this.server.limits.upload_mib; // told at once, not after minutes of uploading
    if (files.reduce((sum, file) => sum + file.size, 0) > most * 2 ** 20) throw new Error(`The upload exceeds ${most} MiB. Upload one scan at a time.`);
    const bar = element("progress", { max: 1, value: 0, ariaLabel: `Upload of ${name}` });
    const row = element("li", {}, `Uploading ${name}`, bar);
    byId("scans").append(row);
    const form = new FormData();
    for (const file of files) form.append("scan", file, file.name);
    form.append("start", "false");
    try {
      const job = await upload("/api/jobs", form, (share) => (bar.value = share));
      this.changed(job);
      if (show) this.choose(job.id);
    } finally {
      row.remove();
    }
  }

  changed(job) {
    const known = this.jobs.get(job.id);
    if (known && job.version < known.version) return; // an answer that was overtaken by a later state
    this.jobs.set(job.id, job);
    this.#list();
    if (known?.state !== job.state) byId("status").textContent = `${job.name}: ${this.#words(job)}`;
    if (job.id === this.chosen) this.detail.show(job);
  }

  choose(id) {
    this.chosen = id;
    this.#list();
    this.detail.show(this.jobs.get(id));
  }

  async remove(id) {
    await call("DELETE", `/api/jobs/${id}`).catch((error) => {
      if (error.status !== 404) throw error; // it is gone already
    });
    this.forget(id);
    byId("detail").focus(); // the button is gone
  }

  forget(id) {
    this.jobs.delete(id);
    this.#list();
    if (this.chosen === id) this.chooseLast();
  }

  chooseLast() {
    if (this.jobs.size) return this.choose([...this.jobs.keys()].at(-1));
    this.chosen = null;
    this.detail.clear();
  }

  #words(job) {
    const isReading = !job.scan && ["queued", "running"].includes(job.state);
    return isReading ? "Reading" : STATES[job.state];
  }

  #list() {
    const list = byId("scans");
    for (const row of [...list.querySelectorAll("li[data-id]")]) if (!this.jobs.has(row.dataset.id)) row.remove();
    for (const job of this.jobs.values()) {
      let row = list.querySelector(`li[data-id="${job.id}"]`);
      if (!row) {
        const state = element("span", { className: "state" });
        row = element("li", {}, button(job.name, () => this.choose(job.id)));
        row.firstChild.append(state);
        row.dataset.id = job.id;
        list.append(row);
      }
      const share = job.state === "running" && job.progress > 0 ? `, ${Math.round(100 * job.progress)} %` : "";
      row.querySelector(".state").textContent = this.#words(job) + share;
      row.firstChild.setAttribute("aria-current", String(job.id === this.chosen));
    }
  }
}

const page = new Page();
const zone = byId("zone");
for (const [name, input] of [["files", "file-input"], ["folder", "folder-input"]]) {
  byId(name).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", () => {
    page.add([...byId(input).files]);
    byId(input).value = "";
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget === null && zone.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  zone.classList.remove("over");
  droppedFiles(event.dataTransfer).then((files) => page.add(files)).catch((error) => page.complain(error));
});
page.started = page.start();
page.started.catch((error) => page.complain(error));
window.mrbridge = page; // for tests
