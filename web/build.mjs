// Builds the page of `mrbridge serve` and the viewer of `mrbridge view` into the Python package.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = process.argv[2] ?? here("../src/mrbridge/web/static");
await mkdir(out, { recursive: true });
const common = { bundle: true, minify: true, target: "es2022", legalComments: "none", logLevel: "warning" };
const { metafile } = await build({ ...common, metafile: true, entryPoints: [here("src/app.js")], format: "iife", outfile: `${out}/app.js` });
await build({ ...common, entryPoints: [here("src/view.js")], format: "iife", outfile: `${out}/view.js` });
await build({ ...common, entryPoints: [here("src/runs.js")], format: "iife", outfile: `${out}/runs.js` });
await build({ ...common, entryPoints: [here("src/app.css")], outfile: `${out}/app.css` });
for (const page of ["index.html", "runs.html"]) await copyFile(here(`src/${page}`), `${out}/${page}`);

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
