# %% [markdown]
# # The five original projects, reproduced
#
# mrbridge has five ancestors: projects that trained a CycleGAN to turn T1-weighted slices into T2-weighted ones and back. If you
# come from one of them, this tutorial shows its recipe as one command, what comes out, and why the published objective
# is not enough.
#
# | project | generator | adversarial loss | cycle, identity weights | slices | preset |
# |---|---|---|---|---|---|
# | 000, 002 | residual U-Net | binary cross-entropy | 10, 5 | 256x256 | `resunet` |
# | 001, 004 | U-Net, 8 levels | binary cross-entropy | 10, 5 | 256x256 | `unet` |
# | 003 | ResNet, 6 or 9 blocks | least squares | 10, 1 | 128x128 or 256x256 | `resnet` |
#
# All have 70x70 PatchGAN critics, Adam with a learning rate of 2e-4 and betas of 0.5 and 0.999, one slice of each contrast a
# step, and a pool of 50 past synthetic images. Four of them trained on two folders of PNG slices of one simulated brain.
#
# ## Data
#
# Two folders, `T1` and `T2`, of 8-bit PNG files. Ours are simulated, of one subject, at 3 mm to be quick. (The slices of the original
# projects may not be redistributed.)

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from mrbridge import phantom

subject = phantom.simulate(phantom.PhantomSettings(spacing_mm=3, stripped=True, seed=30), 0)
for folder, volume in {"T1": subject.t1w, "T2": subject.t2w}.items():
    Path("slices", folder).mkdir(parents=True)
    voxels = volume.voxels / np.quantile(volume.voxels, 0.999)
    for number in range(12, 48):
        image = np.rot90(np.clip(voxels[:, :, number], 0, 1) * 255).astype(np.uint8)
        Image.fromarray(image).save(Path("slices", folder, f"Image #{number}.png"))

# %% language="bash"
# mrbridge prepare slices -o store

# %% [markdown]
# What the networks are:

# %%
import mrbridge

pd.DataFrame(
    {name: mrbridge.PRESETS[name].networks.describe() for name in ("resunet", "unet", "resnet")}
).T

# %% [markdown]
# These are parameters of one generator, one critic, and all four networks, and the size of a critic's answer. `mrbridge info unet` prints the
# same, with all settings.
#
# ## The recipes
#
# Each project is one command. These are the full ones; with two cores, they take from under an hour to two hours:
#
# ```
# mrbridge train store -o run-000 --preset resunet --set epochs=145
# mrbridge train store -o run-001 --preset unet --set epochs=145
# mrbridge train store -o run-003 --preset resnet --set epochs=145
# ```
#
# After every epoch a sheet of the same slices is written to `samples`: `epoch_0000.png` (the untrained networks), `epoch_0001.png`, …,
# `epoch_0100.png`, `epoch_0145.png`. These are the pictures that the projects show. `progress.gif` animates all of them.
#
# Below, project 001 runs through its 145 epochs with an eighth of the features, slices of 96x96 pixels and eight steps an epoch, to
# be quick; the other two run for two epochs. **This is far too short to learn the contrasts**: it shows that the recipes work, and the results of full
# trainings follow.

# %% language="bash"
# small="--set networks.image_size=96 --set networks.critic.features=8 --set networks.generator.features=8"
# short="--set steps_per_epoch=8 -q"
# mrbridge train store -o run-001 --preset unet --set networks.generator.levels=5 --set networks.generator.max_features=64 $small $short --set epochs=145
# mrbridge train store -o run-000 --preset resunet --set networks.generator.blocks=2 --set networks.generator.max_features=32 $small $short --set epochs=2
# mrbridge train store -o run-003 --preset resnet --set networks.generator.blocks=2 $small $short --set epochs=2
# ls run-001; ls run-001/samples | tail -3

# %%
sheets = {epoch: Path(f"run-001/samples/epoch_{epoch:04d}.png") for epoch in (0, 1, 100, 145)}
sheets = {epoch: Image.open(path) for epoch, path in sheets.items() if path.exists()}
fig, axes = plt.subplots(len(sheets), 1, figsize=(9, 2 * len(sheets)), layout="constrained")
for axis, (epoch, sheet) in zip(axes, sheets.items(), strict=True):
    axis.imshow(sheet.crop((0, 0, sheet.width, sheet.height // 3)), cmap="gray")
    axis.set_title(f"project 001, epoch {epoch}")
    axis.axis("off")
plt.show()

# %% [markdown]
# From noise to the shape of the head; but the ventricles are still dark in the synthetic T2w and bright in the synthetic T1w, as in the
# inputs: copies, and coarse ones. `run-001/progress.gif` shows all epochs.

# %%
columns = ["epoch", "adversarial", "cycle", "identity", "source_critic", "target_critic", "seconds"]
pd.concat(
    {
        run: pd.read_csv(f"{run}/metrics.csv").iloc[[-1]][columns]
        for run in ("run-000", "run-001", "run-003")
    }
).droplevel(1).round(2)

# %% [markdown]
# ## What came out
#
# The three presets were trained in full, a hundred epochs each, on the slices of the original projects, and scored against the true slices
# (PSNR in dB and SSIM, [all details](../explanation/quality.md#2d-images-seed-png)):
#
# | | minutes on a CPU | T1w to T2w | T2w to T1w |
# |---|---|---|---|
# | `unet` | 117 | 10.8 / 0.15 | 11.6 / 0.15 |
# | `resunet` | 48 | 11.1 / 0.14 | 12.3 / 0.19 |
# | `resnet` | 114 | 13.3 / 0.30 | 15.4 / 0.38 |
# | shipped model, without training | 0 | 12.9 / 0.58 | 13.9 / 0.67 |
# | `bridge`, the default of mrbridge | 20 | 31.0 / 0.96 | 29.2 / 0.99 |
#
# The results of `unet` look like T2w and T1w, but many tissues are wrong. `resunet` collapsed in one direction about the 70th epoch. `resnet`
# found the right tissues, and shifted them by some pixels. None of this shows in the losses.
#
# ## Why the published objective is not enough
#
# 1. **Adversarial loss: the look, not the tissue.** A critic judges whether a slice looks like T2w. Which tissue became bright it cannot know.
# 2. **Cycle loss: any reversible mapping will do.** A negative, a permutation of grey levels, a shift by two pixels: each can be undone by the other
#    generator, at a loss of zero.
# 3. **Identity loss: teaches to copy.** A generator that returns its input has an identity loss and a cycle loss of zero. With both, copying
#    is a comfortable optimum, and early training finds it.
# 4. **Few slices of one person.** Forty slices do not tell tissue from position, and a critic learns them by heart.
#
# [A CycleGAN in 200 lines](2-cyclegan.md) switches off the losses one by one, and [How a GAN lies](3-how-a-gan-lies.md) shows the failures.
#
# What helps: a start from a model that already knows how each tissue changes, learned from simulated subjects; back-translation in the place of
# the critics; finding slices that show the same anatomy, which these data hide. That is the preset `bridge`:
#
# ```
# mrbridge train store -o run --set minutes=20
# ```
