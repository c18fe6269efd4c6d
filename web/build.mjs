// Builds the page of `mrbridge serve` and the viewer of `mrbridge view` into the Python package.
import { build } from "esbuild";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = process.argv[2] ?? here("../src/mrbridge/web/static");
await mkdir(out, { recursive: true });
const common = { bundle: true, minify: true, target: "es2022", legalComments: "none", logLevel: "warning" };
const { metafile } = await build({ ...common, metafile: true, entryPoints: [here("src/app.js")], format: "iife", outfile: `${out}/app.js` });
for (const name of ["view", "runs", "study"]) await build({ ...common, entryPoints: [here(`src/${name}.js`)], format: "iife", outfile: `${out}/${name}.js` });
await build({ ...common, entryPoints: [here("src/app.css")], outfile: `${out}/app.css` });

// The pages share their head: a comment in the first line has the title and the script.
const head = await readFile(here("src/head.html"), "utf8");
for (const page of ["index.html", "runs.html", "study.html"]) {
  const text = await readFile(here(`src/${page}`), "utf8");
  const whole = text.replace(/^<!-- head: (.+) \| (\S+) -->\n/, (_, title, script) => head.replace("TITLE", title).replace("SCRIPT", script));
  await writeFile(`${out}/${page}`, whole);
}

// The licences of the packages inside: they have to be passed on with them.
const names = Object.keys(metafile.inputs).map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]);
const texts = [];
for (const name of [...new Set(names)].filter(Boolean).sort()) {
  const folder = here(`node_modules/${name}`);
  const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
  const file = (await readdir(folder)).find((one) => /^(licen[cs]e|copying)/i.test(one));
  const text = await readFile(file ? `${folder}/${file}` : here(`licenses/${name}.txt`), "utf8");
  texts.push(`${name} ${version}, ${license}\n\n${text}`);
}
await writeFile(`${out}/LICENSES.txt`, texts.join("\n----\n\n"));
