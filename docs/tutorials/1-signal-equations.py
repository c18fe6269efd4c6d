# %% [markdown]
# # T1w and T2w from the signal equations
#
# Why can a T2-weighted image not be had from a T1-weighted one by inverting its grey levels? This tutorial
# computes both images from three properties of tissue, and shows what a curve from intensity to intensity can
# and cannot do. It needs no data and no training.
#
# ## Three numbers per tissue
#
# Proton density, T1 and T2 decide how bright tissue is. These are the values that the
# [phantom](../explanation/phantom.md) of mrbridge uses for 3 T; their sources are in `mrbridge.phantom.signals`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mrbridge import phantom
from mrbridge.metrics import fit_monotone, scores
from mrbridge.phantom import signals

tissues = {
    "white matter": signals.WHITE_MATTER,
    "grey matter": signals.GREY_MATTER,
    "fluid": signals.FLUID,
    "lesion (multiple sclerosis)": signals.LESION,
    "muscle": signals.MUSCLE,
    "fat": signals.FAT,
}
table = pd.DataFrame(
    {name: (one.density, one.t1, one.t2) for name, one in tissues.items()},
    index=["proton density", "T1 (ms)", "T2 (ms)"],
).T
table

# %% [markdown]
# ## Two sequences
#
# A spoiled gradient echo with a short repetition time gives a T1-weighted image. With E1 = exp(-TR / T1) and the
# flip angle α its signal is
#
# `density × sin α × (1 − E1) / (1 − cos α × E1) × exp(−TE / T2*)`
#
# Tissue with a short T1 has recovered before the next pulse, and is bright. A spin echo with a long repetition
# time and a long echo time gives a T2-weighted image:
#
# `density × (1 − 2 exp(−(TR − TE/2) / T1) + exp(−TR / T1)) × exp(−TE / T2)`
#
# Everything has recovered, and tissue with a long T2 still has signal when the echo comes.

# %%
t1w_sequence = signals.GradientEcho(tr=9, te=3, flip_degrees=18)
t2w_sequence = signals.FastSpinEcho(tr=5000, te=95)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
flips = np.linspace(1, 40, 100)
echoes = np.linspace(0, 250, 100)
for name in ("white matter", "grey matter", "fluid"):
    tissue = tissues[name]
    values = (tissue.density, tissue.t1, tissue.t2)
    left.plot(
        flips, signals.spoiled_gradient_echo(*values, tr=9, te=3, flip_degrees=flips), label=name
    )
    right.plot(echoes, signals.spin_echo(*values, tr=5000, te=echoes), label=name)
left.axvline(18, color="0.7", zorder=0)
right.axvline(95, color="0.7", zorder=0)
left.set(xlabel="flip angle (degrees)", ylabel="signal", title="gradient echo, TR 9 ms, TE 3 ms")
right.set(xlabel="echo time (ms)", title="spin echo, TR 5000 ms")
right.legend()
plt.show()

# %% [markdown]
# The grey lines mark a T1-weighted and a T2-weighted protocol. At an echo time of 0 the spin echo shows little
# more than proton density; T2 weighting comes from waiting.
#
# ## Is one a function of the other?
#
# Now every tissue is one point: its signal in T1w and its signal in T2w.

# %%
table["T1w"] = [t1w_sequence.signal(one) for one in tissues.values()]
table["T2w"] = [t2w_sequence.signal(one) for one in tissues.values()]
fig, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
axis.scatter(table["T1w"], table["T2w"])
for name, row in table.iterrows():
    axis.annotate(name, (row["T1w"], row["T2w"]), xytext=(5, 4), textcoords="offset points")
axis.set(xlabel="T1w signal", ylabel="T2w signal", xlim=(0, 0.075), ylim=(0, 0.75))
plt.show()
table.round(3)

# %% [markdown]
# White matter, grey matter and fluid suggest "invert it": the order in T2w is the reverse of the
# order in T1w. The other tissues break the rule. Compare a lesion with white matter:

# %%
lesion, white = table.loc["lesion (multiple sclerosis)"], table.loc["white matter"]
print(f"T1w: a lesion has {lesion['T1w'] / white['T1w']:.2f} times the signal of white matter")
print(f"T2w: a lesion has {lesion['T2w'] / white['T2w']:.2f} times the signal of white matter")

# %% [markdown]
# In T1w such a lesion nearly disappears; in T2w it is the brightest thing in white matter. T1 and T2 are two different
# numbers, T1w depends mostly on the first and T2w mostly on the second. Nothing makes the one a function of the other.
#
# ## A whole head
#
# A simulated subject has these tissues, and also iron in the deep nuclei (shorter T2), regional differences,
# vessels, and voxels that contain two tissues. Here it has neither noise nor a bias field, so whatever a curve
# gets wrong is the curve's fault.

# %%
subject = phantom.simulate(
    phantom.PhantomSettings(spacing_mm=2, noise=0, bias=0, lesions=(12, 12), seed=1), 0
)
t1w, t2w = subject.t1w.voxels.astype(float), subject.t2w.voxels.astype(float)
brain = subject.brain_mask.voxels > 0
lesions = subject.lesions.voxels > 0
middle = np.argmax(lesions.sum((0, 1)))  # the axial slice with most lesion


def show(images, titles, **options):
    """Axial slices next to each other, anterior up."""
    fig, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.6), layout="constrained")
    for axis, image, title in zip(axes, images, titles, strict=True):
        axis.imshow(np.rot90(image[12:-12, 12:-12, middle]), cmap="gray", vmin=0, **options)
        axis.set_title(title)
        axis.axis("off")
    plt.show()


show([t1w * brain, t2w * brain, lesions], ["T1w", "T2w", "lesions"])

# %% [markdown]
# ## The best curve
#
# The best curve of all, in the sense of least squares, gives each T1w intensity the mean T2w intensity of the voxels
# that have it. The *monotone baseline*, which mrbridge prints next to every score, is the best curve that only
# rises or only falls. Both are fitted here on the very scan that they are judged on, an advantage that no
# network gets.

# %%
bins = np.digitize(t1w, np.quantile(t1w[brain], np.linspace(0, 1, 101)[1:-1]))
means = np.bincount(bins[brain], t2w[brain], 100) / np.bincount(bins[brain], minlength=100)
by_curve = means[bins] * brain
by_monotone = fit_monotone(t1w[brain], t2w[brain]).apply(t1w) * brain

fig, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
axis.hist2d(t1w[brain], t2w[brain], bins=120, norm="log", cmap="Greys")
order = np.argsort(t1w[brain])[::50]
axis.plot(t1w[brain][order], by_curve[brain][order], label="mean of T2w for each T1w")
axis.plot(t1w[brain][order], by_monotone[brain][order], label="best monotone curve")
axis.set(xlabel="T1w intensity", ylabel="T2w intensity")
axis.legend()
plt.show()

# %%
explained = 1 - np.var((t2w - by_curve)[brain]) / np.var(t2w[brain])
print(f"correlation of T1w and T2w in the brain: {np.corrcoef(t1w[brain], t2w[brain])[0, 1]:.2f}")
print(f"share of T2w's variance that the best curve explains: {explained:.0%}")
for name, image in {"best curve": by_curve, "monotone": by_monotone}.items():
    fit = scores(t2w, image, brain)["fit"]
    print(f"{name}: PSNR {fit['psnr']:.1f} dB, SSIM {fit['ssim']:.2f}")

# %% [markdown]
# The points form a cloud, not a line. At one T1w intensity there are voxels of very different T2w intensity; a curve
# has to give them all the same grey. See what that does to the picture:

# %%
top = np.quantile(t2w[brain], 0.995)
show(
    [t2w * brain, by_curve, 3 * np.abs(t2w - by_curve) * brain],
    ["true T2w", "best curve of T1w", "error, three times as bright"],
    vmax=top,
)

# %%
ring = brain & ~lesions & (np.abs(t1w - np.median(t1w[lesions])) < 0.02 * np.median(t1w[lesions]))
print("median T2w intensity")
print(f"  in lesions:                                       {np.median(t2w[lesions]):.0f}")
print(f"  elsewhere in the brain, at the same T1w intensity: {np.median(t2w[ring]):.0f}")
print(f"  in lesions, by the best curve:                    {np.median(by_curve[lesions]):.0f}")

# %% [markdown]
# The curve paints lesions as what else has their T1w intensity. It misses the deep nuclei, whose iron makes them dark in T2w
# only, in the same way.
#
# ## What a network can do
#
# A network sees neighbours. A grey voxel between two folds is partly fluid; a grey voxel deep in white
# matter may be a lesion; a dark rim is bone here and a vessel there. Anatomy decides between tissues of equal
# intensity, and this is all that a network can add. Where two states of tissue have the same T1w intensity *and* the same
# surroundings, it cannot know either: it will draw what was more frequent in training.
# [How a GAN lies](3-how-a-gan-lies.md) shows what follows from that.
#
# **Try it:** change `te` of the T2-weighted sequence to 20 ms, the proton density weighting of many protocols.
# Does a curve do better? Give the subject no lesions, or the usual noise (`noise=0.03`).
