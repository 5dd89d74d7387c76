"""BERT against a slow version: padding, segments, dropout, sizes and cost, and names that are refused."""

import math
import re
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy_berts import LENGTHS, PAD, SEPARATOR, TOKENS, network, texts

from kd_lib import cost, models
from kd_lib.models import TEXT_EXAMPLES, TEXT_MODELS, build, check, reads_texts
from kd_lib.models.transformer import SIZES


def slow_norm(v, layer):
    mean = v.mean()
    return (v - mean) / torch.sqrt(((v - mean) ** 2).mean() + 1e-12) * layer.weight + layer.bias


def slow_linear(v, layer):
    return torch.stack([(row * v).sum() + b for row, b in zip(layer.weight, layer.bias, strict=True)])


def slow_bert(net, ids):
    """One text without padding, token by token, after Vaswani et al. 2017 and Devlin et al. 2019."""
    e, segment, states = net.embeddings, 0, []
    for position, token in enumerate(ids):
        v = e.word_embeddings.weight[token] + e.position_embeddings.weight[position]
        states.append(slow_norm(v + e.token_type_embeddings.weight[segment], e.LayerNorm))
        segment = 1 if token == SEPARATOR else segment
    maps, attentions = [torch.stack(states)], []
    for layer in net.stages:
        own, d = layer.attention.self, states[0].numel() // layer.attention.self.num_attention_heads
        q, k, v = ([slow_linear(h, part) for h in states] for part in (own.query, own.key, own.value))
        scores = torch.zeros(own.num_attention_heads, len(ids), len(ids), dtype=torch.float64)
        after = []
        for i, h in enumerate(states):
            mixed = []
            for head in range(own.num_attention_heads):
                part = slice(head * d, (head + 1) * d)
                row = [(q[i][part] * k[j][part]).sum() / math.sqrt(d) for j in range(len(ids))]
                scores[head, i] = torch.stack(row)
                weights = [math.exp(s) / sum(math.exp(other) for other in row) for s in row]
                mixed.append(sum(w * v[j][part] for j, w in enumerate(weights)))
            out = layer.attention.output
            after.append(slow_norm(slow_linear(torch.cat(mixed), out.dense) + h, out.LayerNorm))
        states = []
        for h in after:
            inner = slow_linear(h, layer.intermediate.dense)
            inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))  # GELU
            states.append(slow_norm(slow_linear(inner, layer.output.dense) + h, layer.output.LayerNorm))
        maps.append(torch.stack(states))
        attentions.append(scores)
    embedding = torch.tanh(slow_linear(states[0], net.pooler.dense))
    return slow_linear(embedding, net.classifier), embedding, maps, attentions


@torch.no_grad()
def test_it_is_bert():
    net, ids = network().double(), texts()
    net.pooler.float(), net.classifier.float()  # logits are float32 whatever comes before
    out = net(ids)
    for i, length in enumerate(LENGTHS):
        logits, embedding, maps, attentions = slow_bert(net, ids[i, :length].tolist())
        torch.testing.assert_close(out.logits[i], logits.float(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.embedding[i], embedding.float(), rtol=1e-5, atol=1e-6)
        for fast, slow in zip(out.maps, maps, strict=True):
            torch.testing.assert_close(fast[i, :length], slow)
            assert (fast[i, length:] == 0).all()
        for fast, slow in zip(out.attentions, attentions, strict=True):
            torch.testing.assert_close(fast[i, :, :length, :length], slow)
            assert (fast[i, :, length:] == 0).all() and (fast[i, :, :, length:] == 0).all()


def test_padding_further_changes_nothing():
    """Logits, states, scores and the gradient of every weight."""
    net, ids = network("bert-l2-d8"), texts()
    wide = F.pad(ids, (0, 4), value=PAD)
    for keep in (True, False):
        net.keep_attentions = keep
        outs = [net(x) for x in (ids, wide)]
        torch.testing.assert_close(outs[0].logits, outs[1].logits)
        for short, long in zip(outs[0].maps, outs[1].maps, strict=True):
            torch.testing.assert_close(F.pad(short, (0, 0, 0, 4)), long)
        for short, long in zip(outs[0].attentions, outs[1].attentions, strict=True):
            torch.testing.assert_close(F.pad(short, (0, 4, 0, 4)), long)
        used = list(net.parameters())
        losses = [(out.logits.square().sum() + sum(h.square().sum() for h in out.maps)) for out in outs]
        for a, b in zip(*(torch.autograd.grad(loss, used) for loss in losses), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    net.embeddings.word_embeddings.weight.data[PAD] = 1e6
    torch.testing.assert_close(net(wide).logits, outs[1].logits)


def test_the_second_text_of_a_pair_is_another_segment():
    net, ids = network(), texts()
    single = ids.masked_fill(ids == SEPARATOR, 4)
    single[:, 8] = SEPARATOR
    with torch.no_grad():
        plain = net(single).logits
        net.embeddings.token_type_embeddings.weight[1] += 1
        assert torch.equal(net(single).logits, plain)
        assert not torch.equal(net(ids).logits, network()(ids).logits)
        net.separator = -1  # a vocabulary without one
        assert torch.equal(net(ids).logits, build_like(net)(ids).logits)


def build_like(net):
    """The same weights with a first segment only."""
    other = network()
    other.load_state_dict(net.state_dict())
    other.separator = -1
    with torch.no_grad():
        other.embeddings.token_type_embeddings.weight[1] = math.nan
    return other


def test_forward_from_goes_on_in_the_middle():
    net, ids = network("bert-l3-d8"), texts()
    out = net(ids)
    for stage in range(4):
        rest = net.forward_from(out.maps[stage], stage)
        torch.testing.assert_close(rest.logits, out.logits)
        assert len(rest.maps) == 4 - stage and len(rest.attentions) == 3 - stage
        torch.testing.assert_close(rest.maps[-1], out.maps[-1])
    with pytest.raises(ValueError, match="no stage 4 in a network of 3 stages"):
        net.forward_from(out.maps[0], 4)


def test_dropout_only_where_the_name_says_so():
    ids = texts()
    still, noisy = network("bert-l2-d8"), network("bert-l2-d8-p10")
    assert torch.equal(still.train()(ids).logits, still.train()(ids).logits)
    for keep in (True, False):
        noisy.keep_attentions = keep
        first, second = (noisy.train()(ids) for _ in range(2))
        assert not torch.equal(first.logits, second.logits)
        assert torch.equal(noisy.eval()(ids).logits, noisy.eval()(ids).logits)
    p = {module.p for module in noisy.modules() if isinstance(module, nn.Dropout)}
    assert p == {0.1}
    folded = models.fold_batchnorm(noisy.train())
    assert torch.equal(folded(ids).logits, folded(ids).logits) and not any(m.training for m in folded.modules())


def test_attention_drops_probabilities_on_both_ways():
    """With all dropout but attention's put aside, both ways still draw."""
    net = network("bert-l1-d8-p50").train()
    for module in net.modules():
        if isinstance(module, nn.Dropout) and module is not net.stages[0].attention.self.dropout:
            module.p = 0.0
    for keep in (True, False):
        net.keep_attentions = keep
        torch.manual_seed(0)
        assert not torch.equal(net(texts()).logits, net(texts()).logits)


@pytest.mark.parametrize(("layers", "millions"), [(12, 109_482_240), (6, 66_955_008)])
def test_parameters_of_bert_base(layers, millions):
    d, inner = 768, 3072
    embeddings = (30522 + 512 + 2) * d + 2 * d
    layer = 4 * (d * d + d) + (d * inner + inner) + (inner * d + d) + 2 * 2 * d
    by_hand = embeddings + layers * layer + d * d + d
    assert by_hand == millions
    with torch.device("meta"):
        net = build(f"bert-l{layers}-d768-p10", n_classes=2)
    assert cost.parameters(net) == by_hand + 2 * d + 2
    assert net.stages[0].attention.self.num_attention_heads == 12


def test_multiply_adds_by_hand():
    """Four projections and two of the feed-forward layer a token, scores and mixtures a pair of tokens, pooler, classifier."""
    net, d, length = network("bert-l2-d64"), 64, 14
    layer = length * (4 * d * d + 2 * 4 * d * d) + 2 * length * length * d
    for net.keep_attentions in (True, False):
        assert cost.multiply_adds(net, (length,)) == 2 * layer + d * d + 5 * d


@pytest.mark.parametrize(("width", "std"), [(768, 0.02), (192, 0.04), (48, 0.08)])
def test_initialisation_is_berts_scaled_to_the_width(width, std):
    torch.manual_seed(0)
    net = build(f"bert-l1-d{width}", **{**TOKENS, "n_classes": 100})
    for weight in (net.stages[0].intermediate.dense.weight, net.classifier.weight):
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert net.classifier.bias.eq(0).all()
    torch.manual_seed(0)
    again = build(f"bert-l1-d{width}", **{**TOKENS, "n_classes": 100})
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_heads():
    heads = {"bert-l1-d32": 2, "bert-l1-d128": 2, "bert-l1-d256": 4, "bert-l4-d312-h12": 12}
    for name, number in heads.items():
        with torch.device("meta"):
            assert build(name).stages[0].attention.self.num_attention_heads == number
    for ask in (check, build):
        with pytest.raises(ValueError, match="'bert-l1-d33': 2 heads do not divide a width of 33"):
            ask("bert-l1-d33")
        with pytest.raises(ValueError, match="percentage below 100"):
            ask("bert-l1-d32-p100")


def test_autocast_leaves_embedding_and_logits_in_float32():
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(texts())
    assert out.logits.dtype == out.embedding.dtype == torch.float32
    assert out.attentions[0].dtype == torch.bfloat16  # it was on


def test_every_parameter_learns():
    net = network("bert-l2-d8-p10").train()
    F.cross_entropy(net(texts()).logits, torch.tensor([0, 1, 4])).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_every_pattern_has_an_example():
    for pattern in TEXT_MODELS:
        regex = re.sub(r"\{\w+\}", "[0-9]+", pattern)
        assert any(re.fullmatch(regex, name) for name in TEXT_EXAMPLES), pattern
    assert all(reads_texts(name) for name in TEXT_EXAMPLES)
    for name in TEXT_EXAMPLES:
        check(name)


def test_images_and_texts_are_told_apart():
    assert not reads_texts("resnet20")
    with pytest.raises(ValueError, match=r"'resnet20' reads images, and has no size 'vocabulary'\. .*'bert-l2-d64'"):
        build("resnet20", **TOKENS)
    with pytest.raises(ValueError, match=r"'bert-l2-d64' reads texts, and has no size 'in_channels'\. .*'resnet20'"):
        build("bert-l2-d64", n_classes=2, in_channels=3)
    with pytest.raises(ValueError, match=r"unknown network: 'bert-l2-64'\. Did you mean 'bert-l2-d64'\?"):
        build("bert-l2-64")
    assert SIZES.keys() == TOKENS.keys()


def test_a_text_network_of_ones_own(monkeypatch):
    mine = types.ModuleType("mine")
    mine.texts = lambda n_classes, vocabulary, pad, separator, max_length: network("bert-l1-d8", n_classes=n_classes)
    mine.images = lambda n_classes, in_channels: None
    monkeypatch.setitem(sys.modules, "mine", mine)
    check("mine:texts")
    assert build("mine:texts", **TOKENS)(texts()).logits.shape == (3, 5)
    with pytest.raises(ValueError, match="'mine:images' is not made for this data, whose sizes are n_classes, vocab"):
        build("mine:images", **TOKENS)
