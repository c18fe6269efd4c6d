# %% [markdown]
# # How a GAN lies
#
# A critic rewards what looks like the training data. If the training data of one contrast show more disease than those of the other,
# what looks right is wrong: Cohen, Luck and Honari (MICCAI 2018, arXiv:1805.08841) trained translators that painted tumours
# into healthy brains, and others that removed them. This tutorial repeats the experiment in miniature, counts, and then looks at four
# other ways to be wrong: copy, inversion, shift and collapse. Read [A CycleGAN in 200 lines](2-cyclegan.md) first; networks
# and losses are the same, on slices of 32x32 pixels.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import nn

from mrbridge import phantom
from mrbridge.metrics import fit_monotone, scores, sliced_wasserstein
from mrbridge.training import monitor

torch.set_num_threads(1)
STEPS, BATCH = 250, 4


def slices(subjects):
    """T1w and T2w brain slices in register: two arrays (slices, 32, 32), from -1 to 1."""
    settings = phantom.PhantomSettings(
        spacing_mm=6, stripped=True, seed=3, lesions=(0, 0), noise=0.01
    )
    result = {"T1w": [], "T2w": []}
    for index in subjects:
        subject = phantom.simulate(settings, index)
        brain = subject.brain_mask.voxels > 0
        kept = np.flatnonzero(brain.mean((0, 1)) > 0.2)
        for contrast, scan in (("T1w", subject.t1w), ("T2w", subject.t2w)):
            volume = scan.voxels.astype(np.float32)
            volume = np.clip(volume / np.quantile(volume[brain], 0.99), 0, 1) * 2 - 1
            rows, columns = ((size - 32) // 2 for size in volume.shape[:2])
            volume = volume[rows : rows + 32, columns : columns + 32]
            result[contrast] += [np.rot90(volume[:, :, k]) for k in kept]
    return np.stack(result["T1w"]), np.stack(result["T2w"])


train_t1w, train_t2w = slices(range(12))
test_t1w, test_t2w = slices(range(12, 16))
half = len(train_t1w) // 2  # T1w of some subjects, T2w of others: unpaired
print(half, "slices of each contrast to train,", len(test_t1w), "pairs to test")


def show(rows, count=8):
    """The first slices of several stacks, with a title each."""
    fig, axes = plt.subplots(
        len(rows), count, figsize=(1.2 * count, 1.25 * len(rows)), squeeze=False
    )
    for line, (title, stack) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
        for axis, image in zip(line, stack[:: max(1, len(stack) // count)], strict=False):
            axis.imshow(image, cmap="gray", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
    fig.subplots_adjust(wspace=0.03, hspace=0.03)
    plt.show()


# %% [markdown]
# ## Lesions in one contrast only
#
# Our lesions are discs, dark in T1w and bright in T2w, painted into white matter. In training, half of the T2w slices have one, and no
# T1w slice has: as if patients had been scanned with one protocol and volunteers with the other.


# %%
def with_lesions(t1w, t2w, share, seed):
    """Paint a disc into some slices of both contrasts; also returns the masks."""
    rng = np.random.default_rng(seed)
    t1w, t2w, masks = t1w.copy(), t2w.copy(), np.zeros(t1w.shape, bool)
    row, column = np.mgrid[:32, :32]
    for number in range(len(t1w)):
        white = np.argwhere(ndimage.binary_erosion(t1w[number] > 0.3, iterations=1))
        if rng.random() >= share or not len(white):
            continue
        centre = white[rng.integers(len(white))]
        masks[number] = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 < 2.6**2
        masks[number] &= t1w[number] > -1
        t1w[number][masks[number]] = -0.5
        t2w[number][masks[number]] = 0.95
    return t1w, t2w, masks


healthy = {"T1w": train_t1w[:half], "T2w": train_t2w[half:]}
biased = healthy | {"T2w": with_lesions(train_t1w[half:], train_t2w[half:], 0.5, 0)[1]}
show({"T1w to train": biased["T1w"], "T2w to train": biased["T2w"]})


# %%
def block(layer, inputs, outputs, **options):
    norm = nn.InstanceNorm2d(outputs, affine=True)
    return nn.Sequential(layer(inputs, outputs, **options), norm, nn.LeakyReLU(0.2))


class Generator(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        down = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.first = block(nn.Conv2d, 1, width, kernel_size=3, padding=1)
        self.down = block(nn.Conv2d, width, 2 * width, **down)
        self.middle = block(nn.Conv2d, 2 * width, 2 * width, kernel_size=3, padding=1)
        self.up = block(nn.ConvTranspose2d, 4 * width, width, **down)
        self.last = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, x):
        full = self.first(x)
        half = self.down(full)
        up = self.up(torch.cat([self.middle(half), half], 1))
        return torch.tanh(self.last(torch.cat([up, full], 1)))


def make_critic(width=16):
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        block(nn.Conv2d, width, 2 * width, kernel_size=4, stride=2, padding=1),
        nn.Conv2d(2 * width, 1, 3, padding=1),
    )


def train(data, weights, seed=0):
    """Generators to T2w and to T1w after `STEPS` steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = {name: torch.tensor(stack[:, None]) for name, stack in data.items()}
    to, critics = {}, {}
    for name in images:
        to[name], critics[name] = Generator(), make_critic()
    adams = [
        torch.optim.Adam(
            itertools.chain(*(n.parameters() for n in group.values())), 1e-3, (0.5, 0.99)
        )
        for group in (to, critics)
    ]
    for step in range(STEPS):
        for adam in adams:
            adam.param_groups[0]["lr"] = 1e-3 * min(1, 2 * (1 - step / STEPS))
        real = {name: stack[rng.choice(len(stack), BATCH)] for name, stack in images.items()}
        fake = {"T2w": to["T2w"](real["T1w"]), "T1w": to["T1w"](real["T2w"])}
        loss = torch.zeros(())
        for name, other in (("T2w", "T1w"), ("T1w", "T2w")):
            if weights.get("adversarial"):
                loss = loss + weights["adversarial"] * ((critics[name](fake[name]) - 1) ** 2).mean()
            if weights.get("cycle"):
                back = to[other](fake[name])
                loss = loss + weights["cycle"] * (back - real[other]).abs().mean()
            if weights.get("identity"):
                loss = loss + weights["identity"] * (to[name](real[name]) - real[name]).abs().mean()
            if weights.get("paired"):
                chosen = rng.choice(half, BATCH)  # pairs of healthy people
                pair = {"T1w": train_t1w[chosen, None], "T2w": train_t2w[chosen, None]}
                pair = {key: torch.tensor(value) for key, value in pair.items()}
                loss = loss + weights["paired"] * (to[name](pair[other]) - pair[name]).abs().mean()
        adams[0].zero_grad()
        loss.backward()
        adams[0].step()
        if weights.get("adversarial"):
            answers = [(critics[n](real[n]), critics[n](fake[n].detach())) for n in critics]
            adams[1].zero_grad()
            sum(((r - 1) ** 2).mean() + (f**2).mean() for r, f in answers).backward()
            adams[1].step()
    return to["T2w"].eval(), to["T1w"].eval()


@torch.no_grad()
def apply(generator, stack):
    return generator(torch.tensor(stack[:, None]))[:, 0].numpy()


# %% [markdown]
# ## Counting
#
# **Appeared:** slices of healthy test subjects in whose synthetic T2w a bright spot of at least four pixels is far brighter than in the true
# T2w. A poor translation has such spots as well. The fair comparison is the same network trained without any lesion (the
# control): what is above the control is due to the training data.
#
# **Vanished:** we paint a lesion into a test T2w slice and translate it with and without. If the T1w changes by less than half of what it should,
# the lesion has vanished.


# %%
def appeared(synthetic):
    """The share of healthy slices with a false bright spot."""
    spots = (synthetic - test_t2w > 0.7) & ndimage.binary_erosion(
        test_t1w > -1, np.ones((1, 3, 3)), iterations=2
    )
    sizes = [np.bincount(ndimage.label(spot)[0].ravel())[1:] for spot in spots]
    return float(np.mean([size.max(initial=0) >= 4 for size in sizes]))


ill_t1w, ill_t2w, lesion = with_lesions(test_t1w, test_t2w, 1.0, 1)
has_lesion = lesion.any((1, 2))


def vanished(to_t1w):
    """The share of lesions that do not reach the synthetic T1w."""
    change = apply(to_t1w, ill_t2w) - apply(to_t1w, test_t2w)
    wanted = ill_t1w - test_t1w
    shares = [
        change[i][lesion[i]].mean() / wanted[i][lesion[i]].mean()
        for i in np.flatnonzero(has_lesion)
    ]
    return float(np.mean(np.array(shares) < 0.5))


LOSSES = {
    "adversarial + cycle": {"adversarial": 1.0, "cycle": 10.0},
    "adversarial + cycle + identity": {"adversarial": 1.0, "cycle": 10.0, "identity": 5.0},
    "pairs of healthy people": {"paired": 10.0},
}
rows, pictures = {}, {"T1w, healthy": test_t1w, "true T2w": test_t2w}
for name, weights in LOSSES.items():
    control_t2w, _ = train(healthy, weights)
    to_t2w, to_t1w = train(biased, weights)
    pictures[name.replace(" + ", "\n+ ")] = apply(to_t2w, test_t1w)
    rows[name] = {
        "appeared": appeared(apply(to_t2w, test_t1w)),
        "appeared, control": appeared(apply(control_t2w, test_t1w)),
        "vanished": vanished(to_t1w),
    }
show(pictures)
table = pd.DataFrame(rows).T
table.map("{:.0%}".format)

# %%
extra = table["appeared"] - table["appeared, control"]
for name in LOSSES:
    print(
        f"{name}: lesions in the training data changed false spots by {100 * extra[name]:+.0f} points,"
    )
    print(f"    and {table.loc[name, 'vanished']:.0%} of real lesions vanished on the way to T1w")

# %% [markdown]
# Compare the rows. The training on pairs never sees a lesion, and has no critic that asks for some. The critics see that T2w slices often
# have a bright disc and that T1w slices never have a dark one, and reward generators that follow. Cycle and identity loss cannot forbid it:
# a lesion that was painted can be removed on the way back. Vanishing needs no critic: a network that never saw a lesion, whatever its loss,
# makes of it what it knows. These are small networks after a short training; Cohen and colleagues
# show the same with large ones on patients. The remedy is in the data: the same diseases, as often, in both contrasts.
#
# ## Copy, inversion, shift, collapse
#
# Four failures that happen in unpaired training, made by hand from the test slices, and what notices them:
#
# - **SSIM** with the true image, if there are pairs.
# - **SWD**, the sliced Wasserstein distance between synthetic and real slices as two sets; it needs no pairs.
# - The **monitor** of `mrbridge train`, which compares with what a reference model makes of the same slices. Here a monotone curve
#   stands in for the reference.

# %%
inside = test_t1w > -1
curve = fit_monotone(train_t1w[train_t1w > -1], train_t2w[train_t1w > -1])
reference = np.where(inside, curve.apply(test_t1w), -1).astype(np.float32)
failures = {
    "true T2w": test_t2w,
    "copy": test_t1w,
    "inversion": np.where(inside, -test_t2w, -1),
    "shift by 2 pixels": np.roll(test_t2w, 2, axis=2),
    "collapse": np.where(inside, test_t2w[inside].mean(), -1),
}
failures = {name: np.asarray(stack, np.float32) for name, stack in failures.items()}
show({"T1w": test_t1w} | failures)

rows = {}
real = train_t2w[half:]
for name, stack in failures.items():
    reading = monitor.read(test_t1w, stack, real, reference)
    rows[name] = {
        "SSIM": scores(
            *((s.transpose(1, 2, 0) + 1) / 2 for s in (test_t2w, stack)), inside.transpose(1, 2, 0)
        )["fit"]["ssim"],
        "SWD": sliced_wasserstein(stack, real),
        "monitor": reading.verdict.name.lower() if reading.verdict else "nothing",
    }
table = pd.DataFrame(rows).T
table

# %%
print(
    "A negative or constant image has no similarity that a rising fit could use: its SSIM is near 0."
)
silent = [name for name in rows if name != "true T2w" and rows[name]["monitor"] == "nothing"]
print("The monitor says nothing about:", ", ".join(silent) or "none of them")
near = rows["shift by 2 pixels"]["SWD"] / rows["true T2w"]["SWD"]
print(f"The SWD of the shifted slices is {near:.2f} times that of the true ones.")

# %% [markdown]
# A critic judges patches without knowing where they are, so it cannot notice a shift. Nor does a cycle loss, if the other generator shifts back, nor
# the monitor. The SWD compares patches at equal places, and all our heads are in the same place: between people who lie
# differently in the scanner, a shift is lost in their differences. Pairs notice it, and so does an overlay. And a set can look right while every slice
# is wrong: no distance between sets knows which lesion belongs to whom. No single number finds every lie; look at the pictures, and
# test on pairs of people that the training did not see ([how far to believe a synthetic scan](../explanation/trust.md)).
