"""TPAMI's networks for 32×32 images: sizes as published, logits, one step of training, and the engines."""

import pytest
import torch
from helpers import tiny_config
from torch import nn

import evomal_core as em
from evomal_core.engines import choose_engine
from evomal_core.losses import TaskLoss
from evomal_core.models import mlp
from evomal_core.seeds import isolated_torch, numpy_rng
from evomal_paper.datasets.torchvision import import_torchvision
from evomal_paper.networks import MODELS
from evomal_paper.networks.initialisation import he_
from evomal_paper.networks.residual import preresnet, pyramidnet, wide_resnet

# Published for ImageNet, by torchvision's documentation of alexnet, vgg16_bn and squeezenet1_0.
ALEXNET, VGG16_BN, SQUEEZENET = 61_100_840, 138_365_992, 1_248_424


def dense(inputs, outputs):
    return inputs * outputs + outputs


PUBLISHED = {
    # Smaller kernels (11 and 5 to 3), 2×2 in place of 6×6 positions before the first dense layer, ten classes.
    "alexnet": ALEXNET
    - (64 * 3 * (121 - 9) + 192 * 64 * (25 - 9))
    - (dense(9216, 4096) - dense(1024, 4096))
    - (dense(4096, 1000) - dense(4096, 10)),
    # One dense layer in place of three.
    "vgg16": VGG16_BN - dense(25088, 4096) - dense(4096, 4096) - dense(4096, 1000) + dense(512, 10),
    # 1.4 million (Springenberg et al. 2015, table 1); 1,369,738 in DeepOBS. Batch norm has two more a channel.
    "allcnnc": 1_369_738 + 2 * (3 * 96 + 5 * 192 + 10),
    # A 3×3 stem in place of 7×7, ten classes, and batch norm after each convolution but the last.
    "squeezenet": SQUEEZENET
    - 96 * 3 * (49 - 9)
    - (dense(512, 1000) - dense(512, 10))
    + 2 * (96 + 2 * (128 + 256 + 384 + 512) * 9 // 8),
    "resnet18": 11_173_962,  # the usual form for CIFAR (github.com/kuangliu/pytorch-cifar)
    "wideresnet": 36_479_194,  # 36.5M in Zagoruyko & Komodakis 2016, table 4; this number in pytorchcv
    "pyramidnet": 1_772_706,  # 1.7M in Han et al. 2017, table 4; this number in pytorchcv
}


def size(network):
    return sum(weights.numel() for weights in network.parameters())


def make(name, classes=10):
    with isolated_torch(0, name):
        return MODELS[name](classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_as_many_weights_as_published(name):
    assert size(make(name)) == PUBLISHED[name]


def test_forms_of_other_depths_have_as_many_weights_as_published():
    # pytorchcv's asserted counts, and those of its models of CIFAR-100.
    assert size(preresnet(depth=110, bottleneck=False)) == 1_730_522
    assert size(preresnet(depth=164)) == 1_703_258
    assert size(pyramidnet(100)) == 1_778_556
    assert size(wide_resnet(100)) == 36_536_884
    assert size(mlp(784, [], 10)) == 7_850


def test_preresnet_101_is_the_published_form_at_another_depth():
    # Each of the three stages has (164 − 101) / 9 = 7 units fewer; a unit of n channels between its 1×1
    # convolutions has 4n·n + 9n·n + n·4n weights, and 2·(4n + n + n) of batch norm.
    fewer = 7 * sum(17 * n * n + 12 * n for n in (16, 32, 64))
    assert size(make("preresnet")) == 1_703_258 - fewer


@pytest.mark.parametrize("name", MODELS)
def test_one_step_of_training_changes_all_weights_and_stays_finite(name):
    network = make(name, classes=7).train()
    with isolated_torch(1, name):
        x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 6])
        before = [weights.detach().clone() for weights in network.parameters()]
        y_pred = network(x)
        TaskLoss("multiclass")(y_pred, y).backward()
    assert y_pred.shape == (2, 7)
    torch.optim.SGD(network.parameters(), lr=0.01).step()
    for (label, after), weights in zip(network.named_parameters(), before, strict=True):
        assert torch.isfinite(after).all(), label
        followed_by_norm = label.endswith("bias") and float((after - weights).detach().abs().max()) == 0
        assert not torch.equal(after, weights) or followed_by_norm, label
    network.eval()
    with torch.no_grad():
        y_pred = network(x)
    assert (y_pred < 0).any(), "logits, not probabilities"


def residual():
    block = import_torchvision().models.resnet.BasicBlock(4, 4)
    return nn.Sequential(nn.Conv2d(3, 4, 3), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("allcnnc", MODELS["allcnnc"]),
        ("pyramidnet", lambda _: pyramidnet(2, depth=8)),
        ("resnet", lambda _: residual()),
    ],
)
def test_an_engine_without_double_backward_takes_it(name, network):
    x = numpy_rng(0, "images").normal(size=(10, 3, 8, 8))  # a sixteenth of CIFAR-10's pixels
    task = em.Task.from_arrays(x, [0, 1] * 5, kind="multiclass")
    config = tiny_config(base=em.SGD(batch_size=2))
    learners = em.learners.make_learners([task], lambda: network(2), config, 0, "test")
    assert choose_engine(learners, config) == "batched"
    assert learners[0].draws == (name == "allcnnc")


def test_he_weights_have_their_variance():
    with isolated_torch(0, "he"):
        network = he_(nn.Sequential(nn.Conv2d(50, 40, 3), nn.BatchNorm2d(40), nn.Linear(200, 300)))
    convolution, norm, linear = network
    assert convolution.weight.var().item() == pytest.approx(2 / (40 * 9), rel=0.05)
    assert linear.weight.var().item() == pytest.approx(2 / 200, rel=0.05)
    assert not convolution.bias.any()
    assert (norm.weight == 1).all()
