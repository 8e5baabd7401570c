"""ADM: diffusers' network with the same weights gives the same outputs, the published sizes, and images of any size."""

import pytest
import torch
from torch import nn

from scoresde import networks

from ..conftest import generator
from .test_networks import awake


def theirs():
    """The size of `ADM(2, 16, (1, 2), 1, (1,), head_channels=8, classes=3, outputs=4)`; their fourth class is our class for none."""
    return pytest.importorskip("diffusers").UNet2DModel(
        in_channels=2,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=8,
        norm_num_groups=4,
        attn_norm_num_groups=4,
        norm_eps=1e-5,
        flip_sin_to_cos=False,
        freq_shift=0,
        num_class_embeds=4,
    )


def copy(network, other):
    """Every parameter of ours into theirs."""
    down = [other.down_blocks[0].resnets[0], other.down_blocks[0].downsamplers[0], other.down_blocks[1].resnets[0]]
    up = [*other.mid_block.resnets, *other.up_blocks[0].resnets, other.up_blocks[0].upsamplers[0], *other.up_blocks[1].resnets]
    attentions = [None, None, other.down_blocks[1].attentions[0]]
    attentions += [other.mid_block.attentions[0], None, *other.up_blocks[0].attentions, None, None, None]
    pairs = [
        (network.enter, other.conv_in),
        (network.embedding.layers[0], other.time_embedding.linear_1),
        (network.embedding.layers[2], other.time_embedding.linear_2),
        (network.embedding.label, other.class_embedding),
        (network.leave[0], other.conv_norm_out),
        (network.leave[2], other.conv_out),
    ]
    names = {"norm1": "norm1", "conv1": "conv1", "modulation": "time_emb_proj", "norm2": "norm2", "conv2": "conv2"}
    for block, residual, attention in zip([*network.down, *network.up], [*down, *up], attentions, strict=True):
        pairs += [(getattr(block.residual, a), getattr(residual, b)) for a, b in names.items()]
        if residual.conv_shortcut is not None:
            pairs.append((block.residual.skip, residual.conv_shortcut))
        if attention is not None:
            pairs += [(block.attention.norm, attention.group_norm), (block.attention.leave, attention.to_out[0])]
            for k, part in enumerate((attention.to_q, attention.to_k, attention.to_v)):
                for name in ("weight", "bias"):
                    getattr(part, name).data.copy_(getattr(block.attention.qkv, name).chunk(3)[k].squeeze())
    for a, b in pairs:
        if isinstance(b, nn.GroupNorm):
            # They have one number for all widths.
            b.num_groups = a.num_groups
        for name, value in b.named_parameters():
            value.data.copy_(getattr(a, name).squeeze() if value.ndim < 4 else getattr(a, name))


def test_diffusers_network_with_our_weights_gives_our_outputs():
    network = networks.ADM(2, 16, (1, 2), 1, (1,), head_channels=8, classes=3, outputs=4).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=generator(parameter.numel()))
    other = theirs().eval()
    copy(network, other)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in other.parameters())
    z, t = torch.randn(2, 2, 8, 8, generator=generator()), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        for label, theirs_label in ((torch.tensor([0, 2]), torch.tensor([0, 2])), (torch.tensor([-1, 1]), torch.tensor([3, 1]))):
            out = network(z, t, label)
            assert float((out - other(z, t, theirs_label).sample).abs().max() / out.abs().max()) < 1e-5


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_published_sizes():
    """296M and 553M (arXiv 2105.05233, tables 4 and 11); one row of 768 numbers is our class for none."""
    with torch.device("meta"):
        assert count(networks.ADM(3, 192, (1, 2, 3, 4), 3, (1, 2, 3), classes=1000, outputs=6)) == 295_904_454 + 768
        large = networks.ADM(3, 256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), outputs=6)
    assert count(large) == 552_814_086
    assert {module.num_groups for module in large.modules() if isinstance(module, nn.GroupNorm)} == {32}


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 12), (1, 1), (1, 9)])
def test_images_of_any_size(size):
    network = awake(networks.ADM(1, 16, (1, 2, 2), 1, head_channels=16, outputs=2))
    z, t = torch.randn(2, 1, *size, generator=generator()), torch.tensor([3.0, 700.0])
    out = network(z, t)
    assert out.shape == (2, 2, *size)
    # Attention at the bottom lets every pixel move every other.
    moved = z.clone()
    moved[:, 0, -1, -1] += 1
    assert float(((network(moved, t) - out).abs() > 0).float().mean()) > 0.95


def test_state_time_and_label_matter_and_batch_mates_do_not():
    network = awake(networks.ADM(2, 16, (1, 2), 1, head_channels=16, classes=5))
    z, t, label = (
        torch.randn(4, 2, 6, 6, generator=generator()),
        torch.tensor([1.0, 50.0, 500.0, 999.0]),
        torch.tensor([0, 1, 2, 4]),
    )
    out = network(z, t, label)
    for other in (network(z + 0.1, t, label), network(z, t + 5, label), network(z, t, (label + 1) % 5), network(z, t)):
        assert bool(((other - out).reshape(4, -1).abs().amax(1) > 1e-6).all())
    for i in range(4):
        torch.testing.assert_close(network(z[i : i + 1], t[i : i + 1], label[i : i + 1])[0], out[i], rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"24 channels .*head_channels=16"):
        networks.ADM(1, 24, (1,), head_channels=16)
    with pytest.raises(ValueError, match=r"\(B, 1, height, width\)"):
        networks.ADM(1, 16, (1,), 1, head_channels=16)(torch.zeros(2, 3, 8, 8), torch.zeros(2))
