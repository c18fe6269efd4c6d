# %% [markdown]
# # From the shipped model to your own scans
#
# The shipped model has seen only simulated subjects. Training adapts it to your scanner. This tutorial goes the whole way on the
# command line: look at the data, prepare, train, translate, ask how certain the result is, score it, and make a page to
# show. Simulated scans stand in for yours; replace `scans` by your BIDS dataset or your folder. `newcomer` is a person whom the training
# does not see.

# %% language="bash"
# mrbridge phantom -o scans --subjects 4 --seed 21 --set spacing_mm=2 -q
# mrbridge phantom -o newcomer --subjects 1 --seed 22 --set spacing_mm=2 -q
# ls scans scans/sub-01/anat

# %% [markdown]
# ## Look first
#
# `inspect` reads every image, and finds what would spoil a training: duplicates, wrong contrasts, damaged files, truncated heads. Open
# `report.html` in a browser.

# %% language="bash"
# mrbridge inspect scans -o report.html

# %% [markdown]
# ## Prepare
#
# `prepare` writes slices that training can read quickly, and splits by subject. Here at 2 mm, to be quick; leave out
# `--set` for real scans, and 1 mm is used. The T1w and T2w scans need not be of the same people.

# %% language="bash"
# mrbridge prepare scans -o store --set standard.spacing_mm=2

# %% [markdown]
# ## Train
#
# Training starts from the shipped model. For real scans, ten minutes are a good start, and more brings little
# ([measured](../explanation/quality.md#three-planes)):
#
# `mrbridge train store -o run --set minutes=10`
#
# Here it is 75 steps on slices of 128x128 pixels:

# %% language="bash"
# mrbridge train store -o run --set epochs=3 --set steps_per_epoch=25 --set networks.image_size=128
# ls run

# %% [markdown]
# `run/samples` shows the same slices after every validation. Left half, from left to right: a T1w slice, its synthetic T2w, the way back
# (cycle), and what the generator of T1w images makes of it (identity). Right half: the same from T2w.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd
from PIL import Image

last = sorted(Path("run/samples").glob("*.png"))[-1]
fig, axis = plt.subplots(figsize=(9, 9 * Image.open(last).height / Image.open(last).width))
axis.imshow(Image.open(last), cmap="gray")
axis.axis("off")
plt.show()
pd.read_csv("run/metrics.csv")[
    ["epoch", "cycle_psnr_source", "cycle_psnr_target", "seconds"]
].round(2)

# %% [markdown]
# ## Translate
#
# Without `-m`, `translate` uses the shipped model; with it, the one just trained. The result has the grid of the scan. `--uncertainty` writes a map next to it: half the width of the interval that should hold the true
# value in nine voxels of ten.

# %% language="bash"
# mrbridge translate -i newcomer/sub-01/anat/sub-01_T1w.nii.gz -o shipped.nii.gz -q
# mrbridge translate -m run -i newcomer/sub-01/anat/sub-01_T1w.nii.gz -o sub-01_desc-synth_T2w.nii.gz --uncertainty
# ls *.nii.gz *.json

# %% [markdown]
# Here the true T2w scan exists, so we can compare.

# %%
volumes = {
    "T1w": "newcomer/sub-01/anat/sub-01_T1w.nii.gz",
    "shipped model": "shipped.nii.gz",
    "trained model": "sub-01_desc-synth_T2w.nii.gz",
    "true T2w": "newcomer/sub-01/anat/sub-01_T2w.nii.gz",
    "uncertainty": "sub-01_desc-uncertainty_T2w.nii.gz",
}
fig, axes = plt.subplots(1, 5, figsize=(12, 3.2), layout="constrained")
images = {name: nibabel.load(path).get_fdata() for name, path in volumes.items()}
for axis, (name, image) in zip(axes, images.items(), strict=True):
    section = np.rot90(image[:, :, image.shape[2] * 5 // 9])
    axis.imshow(section, cmap="gray", vmin=0, vmax=np.quantile(section, 0.995))
    axis.set_title(name)
    axis.axis("off")
plt.show()

# %% [markdown]
# Both find the sulci; neither draws the dark falx between the hemispheres. The trained model's image has less contrast.
#
# Is the map right? Scale the synthetic scan to the true one, and count.

# %%
from mrbridge.metrics import fit_nonnegative

truth, synthetic = images["true T2w"], images["trained model"]
head = truth > 0.1 * np.quantile(truth, 0.995)
scale, offset = fit_nonnegative(truth, synthetic, head)
error = np.abs(scale * synthetic + offset - truth)[head]
width = (scale * images["uncertainty"])[head]
print(f"{(error <= width).mean():.0%} of the true values are within the interval; 90 % were wanted")
wide = width >= np.quantile(width, 0.8)
print(
    f"mean error where the map is high: {error[wide].mean():.0f}, elsewhere: {error[~wide].mean():.0f}"
)

# %% [markdown]
# The intervals are wider than they need to be, but the map does show where errors are larger.
#
# ## Score
#
# `evaluate` scores a model on all pairs of a dataset. Scores of people who were in the training are too good; keep some out. Score
# the shipped model too: it is what the training has to beat.

# %% language="bash"
# mrbridge evaluate -m shipped --pairs newcomer -o scores-shipped --set cycle=false --set tissues=false -q
# mrbridge evaluate -m run --pairs newcomer -o scores --set cycle=false --set tissues=false

# %%
tables = {
    model: pd.read_csv(f"{folder}/scores.csv")
    for model, folder in {"shipped": "scores-shipped", "trained": "scores"}.items()
}
table = pd.concat(tables, names=["model"]).query("kind == 'fit' and method in ('model', 'floor')")
table.pivot_table(index=["direction", "method", "model"], values=["psnr", "ssim"]).round(2)

# %% [markdown]
# `floor` is the best rising or falling intensity curve: both models beat it. But the training made the scores worse: the shipped
# model knows simulated scans already, and 75 steps only disturb it. On real patients, ten minutes of training raised the SSIM from
# T1w to T2w from 0.72 to 0.75, and left the other direction as it was ([results](../explanation/quality.md#three-planes)).
#
# `scores/report.html` shows every case and says what the synthetic scans may be used for. [Is it any good?](5-is-it-any-good.md) explains
# the numbers.
#
# ## A page to show
#
# `view` writes one file that opens in any browser, with the scan, the synthetic image and the map on top of each other, and
# `SYNTHETIC` in every view. (It needs the viewer, which is built with npm when mrbridge is installed.)

# %% language="bash"
# mrbridge view newcomer/sub-01/anat/sub-01_T1w.nii.gz sub-01_desc-synth_T2w.nii.gz --uncertainty sub-01_desc-uncertainty_T2w.nii.gz -o page.html
# ls -sh page.html

# %% [markdown]
# ## On your own scans
#
# 1. Replace `scans`, and leave out the settings that made this quick.
# 2. Read what `inspect` and `prepare` say: which files were left out, and why.
# 3. Train with `--set minutes=10`, and look at `run/samples`.
# 4. Score both models on people that the training did not see, and use the better one.
