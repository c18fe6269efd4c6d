// What was dropped or chosen, as scans: each is a list of files with their names.
const IMAGE = /\.(nii|nii\.gz|png|tiff?|jpe?g|zip)$/i;

/** Files as scans: every image and zip is one, all others of one folder are a DICOM series. */
export function asScans(files) {
  const scans = [];
  const series = new Map();
  for (const file of files) {
    const path = file.path ?? file.webkitRelativePath ?? "";
    if (file.name.startsWith(".")) continue;
    if (IMAGE.test(file.name)) scans.push([file]);
    else {
      const folder = path.split("/")[0];
      series.set(folder, [...(series.get(folder) ?? []), file]);
    }
  }
  return [...scans, ...series.values()];
}

/** The files of a drop, those in folders included. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => filesOf(entry, "")))).flat();
}

async function filesOf(entry, parent) {
  const path = parent ? `${parent}/${entry.name}` : entry.name;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    file.path = path;
    return [file];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((one) => filesOf(one, path)))).flat();
}
