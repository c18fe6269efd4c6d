# %% [markdown]
# # A CycleGAN in 200 lines
#
# Two generators translate between T1w and T2w slices, two critics judge them, and no pair is ever shown. This tutorial
# writes all of it in plain PyTorch, trains it on small simulated slices, and then switches off each loss in
# turn. It runs in a few minutes on two cores. The method is that of Zhu et al. 2017 (arXiv:1703.10593).
#
# ## Data
#
# Axial slices of 64x64 pixels, 3 mm each, of simulated brains. The T1w slices are of other subjects than the T2w slices:
# the training is unpaired. Two further subjects, whom no training sees, have both contrasts, so that we can score.

# %%
import itertools
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

from mrbridge import phantom
from mrbridge.metrics import fit_monotone, scores

torch.set_num_threads(1)
STEPS, BATCH = 300, 2


def slices(subjects, contrast):
    """Brain slices of some subjects: (slices, 1, 64, 64), from -1 (background) to 1."""
    settings = phantom.PhantomSettings(spacing_mm=3, stripped=True, seed=3, lesions=(0, 6))
    result = []
    for index in subjects:
        subject = phantom.simulate(settings, index)
        volume = {"T1w": subject.t1w, "T2w": subject.t2w}[contrast].voxels.astype(np.float32)
        volume = np.clip(volume / np.quantile(volume[volume > 0], 0.99), 0, 1) * 2 - 1
        rows, columns = ((size - 64) // 2 for size in volume.shape[:2])
        volume = volume[rows : rows + 64, columns : columns + 64]
        inside = (volume > -1).mean((0, 1))
        result += [np.rot90(volume[:, :, k]) for k in np.flatnonzero(inside > 0.25)]
    return torch.tensor(np.stack(result)[:, None])


t1w_train, t2w_train = slices(range(5), "T1w"), slices(range(5, 10), "T2w")
t1w_test, t2w_test = slices(range(10, 12), "T1w"), slices(range(10, 12), "T2w")
print(
    len(t1w_train),
    "T1w and",
    len(t2w_train),
    "T2w slices to train;",
    len(t1w_test),
    "pairs to score",
)


def show(rows, columns, titles):
    """Slices in a grid; each row is a tensor (slices, 1, 64, 64)."""
    fig, axes = plt.subplots(
        len(rows), len(columns), figsize=(1.6 * len(columns), 1.65 * len(rows)), squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for r, row in enumerate(rows):
        axes[r, 0].set_ylabel(titles[r], rotation=0, ha="right", va="center")
        for c, column in enumerate(columns):
            axes[r, c].imshow(row[column, 0], cmap="gray", vmin=-1, vmax=1)
    fig.subplots_adjust(wspace=0.03, hspace=0.03)
    plt.show()


shown = list(range(4, len(t1w_test), len(t1w_test) // 6))[:6]
show([t1w_train, t2w_train], shown, ["T1w\n(to train)", "T2w\n(to train)"])

# %% [markdown]
# Slices in one column are of different people. No network sees the two contrasts of one person.
#
# ## A generator
#
# A small U-Net: two strided convolutions down, two residual blocks, two transposed convolutions up. The skip connections
# carry fine detail past the bottleneck. The last layer is a tanh, because images are between -1 and 1.


# %%
def block(layer, inputs, outputs, **options):
    """A convolution, instance normalisation, and a rectifier."""
    return nn.Sequential(
        layer(inputs, outputs, **options),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.LeakyReLU(0.2),
    )


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            block(nn.Conv2d, width, width, kernel_size=3, padding=1),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x):
        return x + self.body(x)


class Generator(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.first = block(nn.Conv2d, 1, width, kernel_size=5, padding=2)
        self.down1 = block(nn.Conv2d, width, 2 * width, kernel_size=4, stride=2, padding=1)
        self.down2 = block(nn.Conv2d, 2 * width, 4 * width, kernel_size=4, stride=2, padding=1)
        self.middle = nn.Sequential(Residual(4 * width), Residual(4 * width))
        up = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.up1 = block(nn.ConvTranspose2d, 4 * width, 2 * width, **up)
        self.up2 = block(nn.ConvTranspose2d, 4 * width, width, **up)
        self.last = nn.Conv2d(2 * width, 1, 5, padding=2)

    def forward(self, x):  # (batch, 1, 64, 64)
        full = self.first(x)  # (batch, 12, 64, 64)
        half = self.down1(full)  # (batch, 24, 32, 32)
        low = self.middle(self.down2(half))  # (batch, 48, 16, 16)
        up = self.up1(low)
        up = self.up2(torch.cat([up, half], 1))
        return torch.tanh(self.last(torch.cat([up, full], 1)))


# %% [markdown]
# ## A critic
#
# A PatchGAN does not judge the slice as a whole: each number that it returns judges one patch, here of 22x22
# pixels. It is trained to answer 1 to real slices and 0 to synthetic ones.


# %%
def make_critic(width=16):
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        block(nn.Conv2d, width, 2 * width, kernel_size=4, stride=2, padding=1),
        nn.Conv2d(2 * width, 1, 4, padding=1),
    )


networks = {"generator": Generator(), "critic": make_critic()}
for name, network in networks.items():
    print(name, sum(weights.numel() for weights in network.parameters()), "parameters")
print("critic: a slice of 64x64 gives", tuple(make_critic()(t1w_test[:1]).shape[2:]), "answers")

# %% [markdown]
# ## Losses
#
# - **Adversarial** (least squares, arXiv:1611.04076): the critic should answer 1 to what the generator makes.
# - **Cycle**: T1w to T2w and back to T1w should return the slice, and the same from T2w.
# - **Identity**: a generator that makes T2w should leave a T2w slice as it is.
#
# The critic only knows how T2w slices look. It cannot know which T1w slice a synthetic one came from; cycle and
# identity loss must keep the anatomy.
#
# ## Training
#
# Generators and critics take turns. A step of the generators lowers the weighted sum of the three losses; a step of the
# critics improves their answers. Critics also see slices that generators made earlier (a pool of 50), so that a
# generator cannot escape by changing its style all the time.

# %%
WEIGHTS = {"adversarial": 1.0, "cycle": 10.0, "identity": 5.0}


def train(weights, steps=STEPS, seed=0):
    """Train two generators and two critics; returns the generators and what happened."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    to_t2w, to_t1w = Generator(), Generator()
    critics = {"T2w": make_critic(), "T1w": make_critic()}
    parameters = itertools.chain(to_t2w.parameters(), to_t1w.parameters())
    adam = torch.optim.Adam(parameters, lr=1e-3, betas=(0.5, 0.999))
    parameters = itertools.chain(*(critic.parameters() for critic in critics.values()))
    critics_adam = torch.optim.Adam(parameters, lr=5e-4, betas=(0.5, 0.999))
    pools, history = {"T2w": [], "T1w": []}, []

    for step in range(steps):
        for optimizer, rate in (
            (adam, 1e-3),
            (critics_adam, 5e-4),
        ):  # linearly to 0 in the 2nd half
            optimizer.param_groups[0]["lr"] = rate * min(1, 2 * (1 - step / steps))
        t1w = t1w_train[rng.choice(len(t1w_train), BATCH)]
        t2w = t2w_train[rng.choice(len(t2w_train), BATCH)]

        # The generators.
        synthetic = {"T2w": to_t2w(t1w), "T1w": to_t1w(t2w)}
        losses = dict.fromkeys(WEIGHTS, torch.zeros(()))
        if weights["adversarial"]:
            answers = [critics[name](image) for name, image in synthetic.items()]
            losses["adversarial"] = sum(((answer - 1) ** 2).mean() for answer in answers)
        if weights["cycle"]:
            losses["cycle"] = (to_t1w(synthetic["T2w"]) - t1w).abs().mean()
            losses["cycle"] = losses["cycle"] + (to_t2w(synthetic["T1w"]) - t2w).abs().mean()
        if weights["identity"]:
            losses["identity"] = (to_t2w(t2w) - t2w).abs().mean() + (to_t1w(t1w) - t1w).abs().mean()
        adam.zero_grad()
        sum(weights[name] * loss for name, loss in losses.items()).backward()
        adam.step()

        # The critics.
        record = {name: loss.item() for name, loss in losses.items()}
        critic_loss = 0
        for name, real in (("T2w", t2w), ("T1w", t1w)):
            new, pool = synthetic[name].detach(), pools[name]
            pool.extend(new)
            while len(pool) > 50:
                pool.pop(int(rng.integers(len(pool))))
            old = torch.stack([pool[i] for i in rng.choice(len(pool), BATCH // 2)])
            fake = torch.cat([new[: BATCH // 2], old])
            on_real, on_fake = critics[name](real), critics[name](fake)
            critic_loss = critic_loss + ((on_real - 1) ** 2).mean() + (on_fake**2).mean()
            record |= {f"{name} real": on_real.mean().item(), f"{name} fake": on_fake.mean().item()}
        critics_adam.zero_grad()
        critic_loss.backward()
        critics_adam.step()
        history.append(record)
    return to_t2w.eval(), to_t1w.eval(), pd.DataFrame(history)


started = time.time()
to_t2w, to_t1w, history = train(WEIGHTS)
print(f"{STEPS} steps in {time.time() - started:.0f} s")

# %% [markdown]
# ## Who is winning?
#
# The losses of a GAN do not fall like those of a classifier: when one side improves, the other side's loss rises. Look
# at the answers of a critic instead. If it says 1 to real and 0 to synthetic slices, the critic is winning, and the
# generator learns little from it; if it says the same to both, the generator is winning, or the critic has learned nothing.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
smooth = history.rolling(20, min_periods=1).mean()
smooth[["T2w real", "T2w fake", "T1w real", "T1w fake"]].plot(ax=axes[0], xlabel="step")
axes[0].set(title="answers of the critics", ylim=(-0.1, 1.1))
smooth[["cycle", "identity"]].plot(ax=axes[1], xlabel="step", logy=True, title="losses")
plt.show()
gap = smooth["T2w real"].iloc[-1] - smooth["T2w fake"].iloc[-1]
print(f"at the end, the T2w critic answers {gap:.2f} higher to real slices than to synthetic ones:")
print("the critic is winning" if gap > 0.6 else "neither has won" if gap > 0.1 else "a draw")

# %% [markdown]
# ## Is it right?
#
# The two test subjects have both contrasts. Scores are PSNR and SSIM in the brain, after a fit of scale and offset
# ([scoring](../explanation/scoring.md)). Two things to compare with: the input itself, and the best monotone
# curve, which was fitted on these very pairs and so has seen what no network saw.


# %%
@torch.no_grad()
def synthesise(generator, images):
    return torch.cat([generator(part) for part in images.split(16)])


def score(image):
    """PSNR (dB) and SSIM of synthetic T2w slices of the test subjects, in the brain."""
    real, made = ((x[:, 0].permute(1, 2, 0).numpy() + 1) / 2 for x in (t2w_test, image))
    fit = scores(real, made, real > 0)["fit"]
    return {"PSNR": fit["psnr"], "SSIM": fit["ssim"]}


results = {"all three losses": synthesise(to_t2w, t1w_test)}
brain = t1w_test > -1
curve = fit_monotone(t1w_test[brain].numpy(), t2w_test[brain].numpy())
by_curve = torch.where(brain, torch.tensor(curve.apply(t1w_test.numpy())), -1.0)
references = {"the input itself": t1w_test, "monotone curve, fitted on the test pairs": by_curve}
table = pd.DataFrame({name: score(image) for name, image in (references | results).items()}).T
show([t1w_test, results["all three losses"], t2w_test], shown, ["T1w", "synthetic", "true T2w"])
table.round(2)

# %% [markdown]
# ## Each loss switched off in turn
#
# What to expect? Without the adversarial loss nothing asks for T2w: a generator that returns its input has a cycle and an identity
# loss of zero. Without the cycle loss little ties a synthetic slice to the slice that it came from. Without the identity loss
# brightness is free: a negative that the other generator inverts again costs nothing. Here is what happened.

# %%
rows = {}
for name in WEIGHTS:
    to_t2w, to_t1w, _ = train(WEIGHTS | {name: 0.0})
    label = f"without {name} loss"
    results[label] = synthesise(to_t2w, t1w_test)
    back = synthesise(to_t1w, results[label])
    rows[label] = score(results[label]) | {
        "cycle error": float((back - t1w_test)[brain].abs().mean()),
        "change of the input": float((results[label] - t1w_test)[brain].abs().mean()),
    }
stacks = {"T1w": t1w_test, **results, "true T2w": t2w_test}
show(list(stacks.values()), shown, [name.replace(" loss", "\nloss") for name in stacks])
table = pd.concat([table, pd.DataFrame(rows).T])
table.round(2)

# %%
print("changes its input least:", table["change of the input"].idxmin())
print("returns to its input best:", table["cycle error"].idxmin())
print("highest SSIM of those trained here:", table.loc[list(results), "SSIM"].idxmax())

# %% [markdown]
# An SSIM like that of the input itself means that bright tissue stayed bright: the generator still copies. That is the comfortable
# optimum of cycle and identity loss, in which early training stays; such slices are sharp, and return nearly perfectly. Without the
# identity loss nothing holds grey levels in their place, not even those of the background.
#
# A low cycle error proves nothing: a perfect copy has a cycle error of zero. One seed of a short training on small slices proves little either; change
# `seed` and `STEPS` and see which of these differences stay. Is any of them above the monotone curve? If not, the network has
# not shown that it knows anatomy. [How a GAN lies](3-how-a-gan-lies.md) continues from here.
