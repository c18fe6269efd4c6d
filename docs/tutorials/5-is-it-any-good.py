# %% [markdown]
# # Is it any good?
#
# A number such as 22 dB means nothing without something to compare it with. This tutorial scores the shipped model on two
# simulated patients, whose truth is known, and shows what scores hide: easy backgrounds, blur, lesions, volumes. At the end a
# small training shows when to stop. [How scores are computed](../explanation/scoring.md) has the definitions.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import ndimage

import mrbridge
from mrbridge import phantom
from mrbridge.metrics import fit_monotone, scores

patients = phantom.PhantomSettings(
    subjects=2, spacing_mm=2, stripped=True, lesions=(12, 24), seed=11
)
phantom.write_bids("patients", patients)
result = mrbridge.evaluate(
    "shipped",
    "patients",
    "scores",
    settings=mrbridge.EvaluateSettings(mask="brain", cycle=False),
)

# %% [markdown]
# On the command line this is `mrbridge evaluate -m shipped --pairs patients -o scores --set mask=brain --set cycle=false`, and
# `scores/report.html` is the page to read.
#
# ## Baselines
#
# *Copy* is the input itself. The *monotone baseline* is the best rising or falling intensity curve, fitted on the other
# patient. A model that does not beat it in both scores has not shown that it knows any anatomy.

# %%
names = {"model": "shipped model", "floor": "monotone baseline", "copy": "copy of the input"}
rows = {}
for direction in ("T1w_to_T2w", "T2w_to_T1w"):
    for method, name in names.items():
        fit = result.summary[direction][method]["fit"]
        rows[direction, name] = {"PSNR (dB)": fit["psnr"]["mean"], "SSIM": fit["ssim"]["mean"]}
table = pd.DataFrame(rows).T
table.round(2)

# %%
for direction in ("T1w_to_T2w", "T2w_to_T1w"):
    gain = table.loc[direction, "shipped model"] - table.loc[direction, "monotone baseline"]
    print(f"{direction}: {gain['PSNR (dB)']:+.1f} dB and {gain['SSIM']:+.2f} over the baseline")

# %% [markdown]
# From T2w to T1w, the shipped model beats the curve in both scores; from T1w to T2w, in neither. Simulated tissue has few intensities,
# and a curve does well on it: from T1w to T2w it reaches an SSIM of 0.85 here, but only 0.54 on real patients, where the
# shipped model reaches 0.72 ([results](../explanation/quality.md)). So compare with the baseline of *your* data.
#
# ## Upper bounds
#
# How good can it get? Nothing can predict the noise of the true scan. The same patient simulated without noise is therefore
# an upper bound for every method. With real data, the usual one is the same network trained on pairs
# (`mrbridge train store -o upper --set supervision=paired`).

# %%
noisy = phantom.simulate(patients, 0)
clean = phantom.simulate(patients.model_copy(update={"noise": 0.0}), 0)
t1w, t2w = (volume.voxels.astype(np.float32) for volume in (noisy.t1w, noisy.t2w))
brain = noisy.brain_mask.voxels > 0
bound = scores(t2w, clean.t2w.voxels, brain)["fit"]
print(f"without noise: PSNR {bound['psnr']:.1f} dB, SSIM {bound['ssim']:.2f}")

# %% [markdown]
# ## The whole-picture trap
#
# Many papers score the whole picture. Most of a picture is air, and air is easy. Here is one and the same image, the curve
# of the monotone baseline, scored in the brain, in the whole picture, and with a wider black margin:

# %%
curve = fit_monotone(t1w[brain], t2w[brain])
by_curve = np.where(brain, curve.apply(t1w), 0)
margin = 30
wide = [np.pad(image, margin) for image in (t2w, by_curve)]
trap = pd.DataFrame(
    {
        "in the brain": scores(t2w, by_curve, brain)["fit"],
        "whole picture": scores(t2w, by_curve, np.ones_like(brain))["fit"],
        f"{margin} more voxels of air on each side": scores(*wide, np.ones_like(wide[0], bool))[
            "fit"
        ],
    }
).T[["psnr", "ssim"]]
trap.round(2)

# %% [markdown]
# Nothing improved but the scores. Compare numbers only if they were computed in the same mask; mrbridge scores in the
# foreground or in the brain.
#
# ## Blur is rewarded
#
# PSNR and SSIM average over voxels, and where a detail is uncertain the safest answer is a blur. Take the true image, shifted by two
# voxels: sharp, with every detail. Then blur it.

# %%
shifted = np.roll(t2w, 2, axis=0)
soft = ndimage.gaussian_filter(shifted, 1.0)
for name, image in {"sharp": shifted, "blurred": soft}.items():
    fit = scores(t2w, image, brain)["fit"]
    print(
        f"true T2w, shifted by two voxels, {name}: PSNR {fit['psnr']:.1f} dB, SSIM {fit['ssim']:.2f}"
    )
for direction, measured in result.measures.items():
    print(f"sharpness of the shipped model, {direction}: {measured['sharpness']['mean']:.2f}")

# %% [markdown]
# The blurred image has the better scores. `evaluate` therefore reports *sharpness* as well, the gradient energy over that of the true
# scan. A value far below 1 means blur; far above 1, noise or invented detail. The shipped model has some of both here: a T2w that is
# too soft, and a T1w that is too rich in detail.
#
# ## Lesions
#
# Lesions fill about one voxel in a thousand. A method could lose them all, and the scores above would hardly change. The phantom
# knows where they are, so they can be counted, by how visible they are in the source:

# %%
counts = result.lesions["T1w_to_T2w"]
pd.DataFrame(
    {
        visibility: {outcome: cell["number"] for outcome, cell in row.items()}
        for visibility, row in counts.items()
    }
).T.fillna(0).astype(int)

# %%
share = (noisy.lesions.voxels > 0).sum() / brain.sum()
kept = counts["all"]["kept"]["number"]
total = sum(cell["number"] for name, cell in counts["all"].items() if name != "invented")
print(f"lesions are {share:.1%} of the first patient's brain")
print(f"from T1w to T2w, {kept} of {total} lesions were kept; a T1w scan hardly shows most of them")

# %% [markdown]
# What the source does not show, the network cannot know; and the few lesions that these T1w scans do show were lost, too.
# The other direction is easier, since T2w shows all of them:

# %%
back = {outcome: cell["number"] for outcome, cell in result.lesions["T2w_to_T1w"]["all"].items()}
shown = sum(back.values()) - back["not_shown"] - back["invented"]
print(f"the true T1w scans show {shown} lesions; {back['kept']} of them were kept,")
print(f"and {back['invented']} invented")

# %% [markdown]
# Still, do not look for lesions in synthetic images: nothing in a T2w image says which ones are missing.
#
# ## Volumes
#
# Do people measure the same in the synthetic scan as in the true one? Fluid, grey and white matter are segmented in both:

# %%
measured = result.measures["T1w_to_T2w"]
pd.DataFrame(
    {
        tissue: {
            "Dice": measured[f"dice_{tissue}"]["mean"],
            "volume bias (%)": measured[f"volume_bias_{tissue}_percent"]["mean"],
        }
        for tissue in ("fluid", "grey", "white")
    }
).T.round(2)

# %% [markdown]
# They do not: white matter is much too large in the synthetic T2w, at the cost of grey matter and fluid. The report opens with a
# conclusion from all this:

# %%
print(result.uses_in_words())

# %% [markdown]
# ## When to stop training
#
# A small U-Net is trained on the pairs of two subjects and validated on another one, after every 15 steps. This is quick,
# and so little data is learned by heart quickly. Validation decides which weights are shipped.

# %%
from mrbridge.dataset.settings import PrepareSettings
from mrbridge.preprocessing.settings import PreprocessSettings

few = phantom.PhantomSettings(subjects=3, spacing_mm=4, stripped=True, seed=5)
phantom.write_bids("few", few)
at_4mm = PreprocessSettings(spacing_mm=4)
mrbridge.prepare(
    "few", "store", PrepareSettings(standard=at_4mm, validation_share=0.34, test_share=0)
)
network = {"levels": 4, "features": 16, "max_features": 64, "dropout_blocks": 0}
run = mrbridge.train(
    "store",
    "run",
    preset="unet",
    supervision="paired",
    networks={"image_size": 64, "generator": network},
    augment={"flip": False, "rotate_degrees": 0, "scale": 0, "shift": 0},
    learning_rate=1e-3,
    ema_decay=0.9,
    batch_size=4,
    steps_per_epoch=15,
    epochs=16,
)
history = pd.DataFrame(run.rows).set_index("step")
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
history["paired"].plot(ax=axes[0], title="loss on the training pairs", logy=True)
history[["psnr_target", "psnr_source"]].plot(
    ax=axes[1], title="PSNR of the validation subject (dB)"
)
plt.show()
best = history["psnr_target"].idxmax()
print(
    f"training loss: {history['paired'].iloc[0]:.3f} at first, {history['paired'].iloc[-1]:.3f} at last"
)
print(f"PSNR of T2w in validation: best at step {best:.0f} of {history.index[-1]:.0f}, with")
print(f"{history['psnr_target'].max():.2f} dB; at the end {history['psnr_target'].iloc[-1]:.2f} dB")

# %% [markdown]
# The loss on the training pairs falls to a twentieth. The validation score of T2w gains 0.4 dB, but nothing in the last 30 steps, while
# the loss still falls: what the network still learns is of those two subjects. Longer training costs time, and may cost
# quality. `--set patience=5` ends a training after five validations without improvement. Without pairs to validate on, mrbridge
# decides by the distance to real slices or by cycle consistency
# ([how the best state is chosen](../explanation/quality.md#how-the-best-state-is-chosen)).
